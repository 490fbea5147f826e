// Two images of one size in one canvas, left and right of a divider. Lengths on the screen are device pixels.
"use strict";

const config = JSON.parse(document.getElementById("config").textContent);
const element = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const LARGEST_ZOOM = 32;

// An embedded image with its halved copies, so that a reduced view is neither slow nor aliased.
class EmbeddedImage {
  constructor(image, name) {
    this.image = image;
    this.name = name;
    this.levels = [];
  }

  async load() {
    await this.image.decode();
    let level = await createImageBitmap(this.image);
    this.levels.push(level);
    while (Math.max(level.width, level.height) > 512) {
      const size = { resizeWidth: Math.ceil(level.width / 2), resizeHeight: Math.ceil(level.height / 2) };
      level = await createImageBitmap(level, { ...size, resizeQuality: "high" });
      this.levels.push(level);
    }
  }

  draw(context, left, top, zoom) {
    const index = clamp(Math.floor(-Math.log2(zoom)), 0, this.levels.length - 1);
    const level = this.levels[index];
    const across = level.width / config.width, down = level.height / config.height;
    const x = Math.max(0, Math.floor(-left / zoom)), y = Math.max(0, Math.floor(-top / zoom));
    const right = Math.min(config.width, Math.ceil((context.canvas.width - left) / zoom));
    const bottom = Math.min(config.height, Math.ceil((context.canvas.height - top) / zoom));
    if (right <= x || bottom <= y) return;
    context.drawImage(
      level, x * across, y * down, (right - x) * across, (bottom - y) * down,
      left + x * zoom, top + y * zoom, (right - x) * zoom, (bottom - y) * zoom);
  }
}

class Viewer {
  constructor(sources) {
    this.sources = sources;
    this.canvas = element("canvas");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.sides = [0, Math.min(1, sources.length - 1)];
    this.divider = 0.5;
    this.zoom = 1;
    this.fitted = true;
    this.centre = [config.width / 2, config.height / 2];
    this.overlay = null;  // draw(context, left, top, zoom)
    this.opacity = 0;
    this.pending = false;
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    this.resize();
  }

  get fittingZoom() {
    return Math.min(this.canvas.width / config.width, this.canvas.height / config.height);
  }

  resize() {
    const ratio = window.devicePixelRatio;
    const box = this.canvas.getBoundingClientRect();
    this.canvas.width = Math.max(1, Math.round(box.width * ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * ratio));
    if (this.fitted) this.fit(); else this.setZoom(this.zoom);
  }

  fit() {
    this.centre = [config.width / 2, config.height / 2];
    this.setZoom(this.fittingZoom);
    this.fitted = true;
  }

  // Keeps the image point under `at` (device pixels of the canvas; its middle if left out) where it is.
  setZoom(zoom, at = [this.canvas.width / 2, this.canvas.height / 2]) {
    const before = this.zoom;
    this.zoom = clamp(zoom, Math.min(1, this.fittingZoom), Math.max(LARGEST_ZOOM, this.fittingZoom));
    this.fitted = false;
    this.centre = this.centre.map((middle, axis) => {
      const offset = at[axis] - (axis ? this.canvas.height : this.canvas.width) / 2;
      return middle + offset / before - offset / this.zoom;
    });
    this.pan(0, 0);
    const percent = 100 * this.zoom;
    element("zoom-level").textContent = `${percent.toFixed(percent < 10 ? 1 : 0)} %`;
  }

  // The next of 100 %, 200 %, ... or of the halves below.
  stepZoom(direction) {
    const step = Math.log2(this.zoom);
    this.setZoom(2 ** (direction > 0 ? Math.floor(step + 1.001) : Math.ceil(step - 1.001)));
  }

  pan(right, down) {
    this.fitted = this.fitted && !right && !down;
    [right, down].forEach((distance, axis) => {
      const side = axis ? config.height : config.width;
      const half = (axis ? this.canvas.height : this.canvas.width) / 2 / this.zoom;
      const reach = Math.max(0, side / 2 - half);  // an image that fits stays in the middle
      this.centre[axis] = clamp(this.centre[axis] - distance / this.zoom, side / 2 - reach, side / 2 + reach);
    });
    this.redraw();
  }

  setDivider(share) {
    this.divider = clamp(share, 0, 1);
    const divider = element("divider");
    divider.style.left = `${100 * this.divider}%`;
    divider.setAttribute("aria-valuenow", Math.round(100 * this.divider));
    this.redraw();
  }

  setSides(left, right) {
    this.sides = [left, right];
    [["left", left], ["right", right]].forEach(([id, index]) => {
      element(id).value = index;
      element(`${id}-name`).textContent = this.sources[index].name;
    });
    this.canvas.setAttribute("aria-label", `Left ${this.sources[left].name}, right ${this.sources[right].name}`);
    this.redraw();
  }

  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.draw(); });
  }

  draw() {
    const { canvas, context, zoom } = this;
    const split = Math.round(this.divider * canvas.width);
    // Whole device pixels, so that a pixel at 100 % is one pixel of the screen.
    const left = Math.round(canvas.width / 2 - this.centre[0] * zoom);
    const top = Math.round(canvas.height / 2 - this.centre[1] * zoom);
    context.fillStyle = getComputedStyle(element("stage")).backgroundColor;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = zoom < 1;
    context.imageSmoothingQuality = "high";
    [[0, split], [split, canvas.width]].forEach(([start, stop], side) => {
      if (stop <= start) return;
      context.save();
      context.beginPath();
      context.rect(start, 0, stop - start, canvas.height);
      context.clip();
      this.sources[this.sides[side]].draw(context, left, top, zoom);
      context.restore();
    });
    if (this.overlay && this.opacity > 0) {
      context.save();
      context.beginPath();
      context.rect(left, top, config.width * zoom, config.height * zoom);
      context.clip();
      context.globalAlpha = this.opacity;
      this.overlay.draw(context, left, top, zoom);
      context.restore();
    }
  }

  listen() {
    const { canvas } = this;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
    };
    const fingers = new Map();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, place(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = fingers.get(event.pointerId);
      if (!last) return;
      const now = place(event);
      const other = [...fingers.entries()].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const spread = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
        const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
        this.setZoom(this.zoom * spread(now) / spread(last), middle);
        this.pan((now[0] - last[0]) / 2, (now[1] - last[1]) / 2);
      } else {
        this.pan(now[0] - last[0], now[1] - last[1]);
      }
      fingers.set(event.pointerId, now);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.setZoom(this.zoom * 2 ** (-event.deltaY / 240), place(event));
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => {
      if (this.zoom < 1) this.setZoom(1, place(event)); else this.fit();
    });
    canvas.addEventListener("keydown", (event) => {
      const step = (event.shiftKey ? 0.5 : 0.1) * Math.min(canvas.width, canvas.height);
      const actions = {
        ArrowLeft: () => this.pan(step, 0), ArrowRight: () => this.pan(-step, 0),
        ArrowUp: () => this.pan(0, step), ArrowDown: () => this.pan(0, -step),
        "+": () => this.stepZoom(1), "=": () => this.stepZoom(1), "-": () => this.stepZoom(-1),
        0: () => this.fit(), 1: () => this.setZoom(1), " ": () => this.setSides(this.sides[1], this.sides[0]),
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
      event.preventDefault();
      actions[event.key]();
    });

    const divider = element("divider");
    divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
    divider.addEventListener("pointermove", (event) => {
      if (divider.hasPointerCapture(event.pointerId)) this.setDivider(place(event)[0] / canvas.width);
    });
    divider.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 0.1 : 0.01;
      const share = {
        ArrowLeft: this.divider - step, ArrowDown: this.divider - step,
        ArrowRight: this.divider + step, ArrowUp: this.divider + step,
        PageDown: this.divider - 0.1, PageUp: this.divider + 0.1, Home: 0, End: 1,
      }[event.key];
      if (share === undefined) return;
      event.preventDefault();
      this.setDivider(share);
    });

    for (const id of ["left", "right"]) {
      element(id).append(...this.sources.map((source, index) => new Option(source.name, index)));
      element(id).addEventListener("change", () => this.setSides(Number(element("left").value), Number(element("right").value)));
    }
    element("zoom-fit").addEventListener("click", () => this.fit());
    element("zoom-one").addEventListener("click", () => this.setZoom(1));
    element("zoom-in").addEventListener("click", () => this.stepZoom(1));
    element("zoom-out").addEventListener("click", () => this.stepZoom(-1));
    element("opacity")?.addEventListener("input", () => this.setOpacity(element("opacity").value / 100));
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.redraw());
    element("theme").addEventListener("click", () => {
      const root = document.documentElement;
      const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
      root.dataset.theme = now === "dark" ? "light" : "dark";
      this.redraw();
    });
    this.setSides(...this.sides);
    if (element("opacity")) this.setOpacity(element("opacity").value / 100);
  }

  setOpacity(share) {
    this.opacity = share;
    element("opacity-value").textContent = `${Math.round(100 * share)} %`;
    this.redraw();
  }
}

document.documentElement.classList.add("scripted");
