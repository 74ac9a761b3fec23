// SPDX-License-Identifier: Apache-2.0
// Names the host and the figure of the cell under the pointer. The page has the extreme cells as a
// table, so nothing is lost without this script.
"use strict";

(() => {
  const figures = [...document.querySelectorAll("#columns td")].map((cell) => cell.textContent);
  const label = document.createElement("div");
  label.className = "cell";
  label.setAttribute("aria-hidden", "true");
  label.hidden = true;
  document.body.append(label);

  function name(image, hosts, event) {
    const box = image.getBoundingClientRect();
    const at = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
    const host = hosts[at((event.clientY - box.top) / box.height, hosts.length)];
    const figure = figures[at((event.clientX - box.left) / box.width, figures.length)];
    label.textContent = `${host}: ${figure}`;
    label.hidden = false;
    const right = document.documentElement.clientWidth - label.offsetWidth - 4;
    label.style.left = `${Math.max(Math.min(event.clientX + 12, right), 4)}px`;
    label.style.top = `${event.clientY + 16}px`;
  }

  for (const image of document.querySelectorAll(".band img")) {
    const hosts = JSON.parse(image.dataset.hosts);
    for (const event of ["pointermove", "pointerdown"]) {
      image.addEventListener(event, (one) => name(image, hosts, one));
    }
    image.addEventListener("pointerleave", () => { label.hidden = true; });
  }
})();
