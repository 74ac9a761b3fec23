// SPDX-License-Identifier: Apache-2.0
// Zooms into a flame graph, and searches its functions. The graph is complete without this script.
"use strict";

(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // A bar's part alone: what is beside it, and beside its callers, is hidden. Again: all of it.
  function makeZoom(figure) {
    figure.addEventListener("click", (event) => {
      const call = event.target.closest("button.call");
      if (!call) return;
      const frame = call.closest(".frame");
      const again = frame.classList.contains("chosen");
      all(".chosen, .aside", figure).forEach((one) => one.classList.remove("chosen", "aside"));
      if (again) return;
      frame.classList.add("chosen");
      for (let one = frame; one && one !== figure; one = one.parentElement) {
        if (!one.matches(".frame")) continue;
        [...one.parentElement.children].filter((other) => other !== one)
          .forEach((other) => other.classList.add("aside"));
      }
    });
  }

  // How many instructions the found functions have. What a found one calls is in its number.
  function found(figure) {
    return all(".call.found", figure)
      .filter((call) => !call.parentElement.parentElement.closest(".frame:has(> .call.found)"))
      .reduce((sum, call) => sum + Number(call.dataset.count), 0);
  }

  function makeSearch(line) {
    line.hidden = false;
    const group = line.closest(".flames");
    const said = line.querySelector("output");
    line.querySelector("input").addEventListener("input", (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      const calls = all(".call", group);
      calls.forEach((call) => call.classList.toggle(
        "found", wanted !== "" && call.textContent.toLowerCase().includes(wanted)));
      said.textContent = wanted === "" ? "" : all(".flame", group)
        .map((figure) => `${figure.dataset.title}: ${found(figure).toLocaleString("en")}`)
        .join(", ");
    });
  }

  all("figure.flame").forEach(makeZoom);
  all("p.search").forEach(makeSearch);
})();
