// The page of `enaf compare`: everything it shows is embedded.
"use strict";

(async () => {
  const images = [...document.querySelectorAll("#images img")];
  const sources = images.map((image) => new EmbeddedImage(image, image.alt));
  try {
    for (const source of sources) await source.load();
  } catch (error) {
    element("loading").textContent = `This browser cannot show images of this size (${error.message})`;
    return;
  }
  const overlay = config.exit_map ? sources.pop() : null;
  const viewer = new Viewer(sources);
  viewer.overlay = overlay;
  viewer.redraw();
  element("loading").hidden = true;
  window.viewer = viewer;
})();
