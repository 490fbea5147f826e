// The page of `enaf view`: tiles come from the server, eta goes to it.
"use strict";

const MOST_TILES = 400;

// An image in tiles at several reductions; while one loads, what it replaces or a coarser one is shown.
class TiledImage {
  constructor(path) {
    this.path = path;
    this.name = config.names[path];
    this.stamp = 0;  // grows whenever the image changes
    this.tiles = new Map();
  }

  load(level, column, row) {
    const key = `${level}/${column}/${row}`;
    const tile = this.tiles.get(key) ?? { stamp: -1, loading: false, bitmap: null };
    this.tiles.delete(key);
    this.tiles.set(key, tile);  // the last used come last
    if (tile.stamp === this.stamp || tile.loading) return;
    const stamp = this.stamp;
    tile.loading = true;
    fetch(`/${this.path}/${stamp}/${key}.webp`)
      .then((response) => response.ok ? response.blob() : Promise.reject(new Error(response.statusText)))
      .then(createImageBitmap)
      .then((bitmap) => Object.assign(tile, { bitmap, stamp, loading: false }))
      .catch(() => { tile.stamp = stamp; tile.loading = false; say("The server does not answer."); })
      .finally(() => viewer?.redraw());
    while (this.tiles.size > MOST_TILES) this.tiles.delete(this.tiles.keys().next().value);
  }

  get settled() {
    return [...this.tiles.values()].every((tile) => !tile.loading && tile.bitmap);
  }

  draw(context, left, top, zoom) {
    const wanted = Math.min(Math.max(Math.floor(-Math.log2(zoom)), 0), config.levels);
    for (let level = config.levels; level >= wanted; level -= 1) {
      const side = config.tile * 2 ** level;
      const first = [Math.max(0, Math.floor(-left / zoom / side)), Math.max(0, Math.floor(-top / zoom / side))];
      const last = [
        Math.ceil(Math.min(config.width, (context.canvas.width - left) / zoom) / side),
        Math.ceil(Math.min(config.height, (context.canvas.height - top) / zoom) / side)];
      for (let row = first[1]; row < last[1]; row += 1) {
        for (let column = first[0]; column < last[0]; column += 1) {
          if (level === wanted || level === config.levels) this.load(level, column, row);
          const bitmap = this.tiles.get(`${level}/${column}/${row}`)?.bitmap;
          if (!bitmap) continue;
          // Whole device pixels, so that no seam shows between tiles.
          const x = Math.round(left + column * side * zoom), y = Math.round(top + row * side * zoom);
          const right = Math.round(left + Math.min((column + 1) * side, config.width) * zoom);
          const bottom = Math.round(top + Math.min((row + 1) * side, config.height) * zoom);
          context.drawImage(bitmap, x, y, right - x, bottom - y);
        }
      }
    }
  }
}

// One colour a patch; borders lie in the middle of what neighbours share, as in the picture of `enaf upscale --exit-map`.
class ExitMap {
  constructor() {
    this.canvas = new OffscreenCanvas(config.cols + 2, config.rows + 2);  // the outermost patches reach the edge
  }

  set(exits) {
    const context = this.canvas.getContext("2d");
    const pixels = context.createImageData(this.canvas.width, this.canvas.height);
    for (let y = 0; y < config.rows + 2; y += 1) {
      for (let x = 0; x < config.cols + 2; x += 1) {
        const row = clamp(y - 1, 0, config.rows - 1), column = clamp(x - 1, 0, config.cols - 1);
        pixels.data.set([...config.colours[exits[row * config.cols + column]], 255], 4 * (y * (config.cols + 2) + x));
      }
    }
    context.putImageData(pixels, 0, 0);
  }

  draw(context, left, top, zoom) {
    const start = config.overlap / 2 - config.stride;
    context.imageSmoothingEnabled = false;
    context.drawImage(
      this.canvas, left + start * zoom, top + start * zoom,
      this.canvas.width * config.stride * zoom, this.canvas.height * config.stride * zoom);
  }
}

const say = (text) => { element("status").textContent = text; };
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
const sources = [new TiledImage("bicubic"), new TiledImage("enaf")];
const exitMap = new ExitMap();
let viewer = null;

function show(routing) {
  const patches = config.rows * config.cols;
  [...document.querySelectorAll("#exits tbody tr")].forEach((row, index) => {
    const share = routing.counts[index] / patches;
    row.querySelector("i").style.width = `${100 * share}%`;
    row.querySelector(".share").textContent = percent(share);
    row.querySelector(".count").textContent = routing.counts[index];
  });
  for (const name of ["paper", "macs"]) element(name).textContent = percent(routing.cost[name]);
  for (const name of ["changed", "run"]) element(name).textContent = routing[name];
  const stages = Object.entries(routing.milliseconds);
  element("milliseconds").textContent = stages.reduce((sum, [, time]) => sum + time, 0).toFixed(1);
  element("stages").textContent = stages.map(([name, time]) => `${name} ${time.toFixed(1)} ms`).join(" · ");
  exitMap.set(Uint8Array.from(atob(routing.exits), (letter) => letter.charCodeAt(0)));
  sources[1].stamp += 1;
  viewer?.redraw();
}

// One request at a time; of all that was asked for meanwhile only the last is sent.
let asking = false, shownEta = null;
async function route() {
  element("eta-value").textContent = Number(element("eta").value).toFixed(2);
  if (asking) return;
  asking = true;
  try {
    while (shownEta !== element("eta").value) {
      const eta = element("eta").value;
      const response = await fetch("/route", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ eta: Number(eta) }) });
      if (!response.ok) throw new Error(await response.text());
      show(await response.json());
      shownEta = eta;
      say("");
    }
  } catch (error) {
    say(`The server does not answer (${error.message}).`);
  } finally {
    asking = false;
  }
}

element("eta").addEventListener("input", route);
route().then(() => {
  if (shownEta === null) return;
  viewer = new Viewer(sources);
  viewer.overlay = exitMap;
  window.viewer = viewer;
  element("loading").hidden = true;
});
