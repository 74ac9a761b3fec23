// SPDX-License-Identifier: Apache-2.0
// Sorts tables, switches a figure's scale, and copies text. A report is readable without this script:
// the buttons that need it are hidden until it runs. It loads nothing and sends nothing.
"use strict";

(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // --- sorting: up, down, and as it was

  const collator = new Intl.Collator("en", { numeric: true });

  function compare(one, other, sign) {
    // Cells without a value come last in both directions.
    if (one === null || other === null) return (one === null) - (other === null);
    if (typeof one === "number") return one === other ? 0 : sign * (one < other ? -1 : 1);
    return sign * collator.compare(one, other);
  }

  function value(cell, numeric) {
    if (!numeric) return cell.textContent.trim();
    return cell.hasAttribute("data-sort") ? Number(cell.dataset.sort) : null;
  }

  function makeSortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = all("th[data-column]", table.tHead);
    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const next = { ascending: "descending", descending: "" }[now] ?? "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        if (next) head.setAttribute("aria-sort", next);
        const column = Number(head.dataset.column);
        const numeric = head.dataset.sort === "number";
        const sign = next === "descending" ? -1 : 1;
        const keys = new Map(original.map((row) => [row, value(row.cells[column], numeric)]));
        const rows = [...original];
        if (next) rows.sort((a, b) => compare(keys.get(a), keys.get(b), sign));
        table.classList.toggle("sorted", next !== "");
        body.append(...rows);
      });
    }
  }

  // --- scales

  function makeSwitch(scales) {
    scales.hidden = false;
    const buttons = all("button", scales);
    const plots = all(".plot", scales.closest("figure"));
    buttons.forEach((button, chosen) => button.addEventListener("click", () => {
      buttons.forEach((one, i) => one.setAttribute("aria-pressed", String(i === chosen)));
      plots.forEach((one, i) => { one.hidden = i !== chosen; });
    }));
  }

  // --- copying

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // A page from a file may have no clipboard, or no permission. The old way works there.
      const area = document.createElement("textarea");
      area.value = text;
      area.className = "unseen";
      document.body.append(area);
      area.select();
      try {
        return document.execCommand("copy");
      } finally {
        area.remove();
      }
    }
  }

  function makeCopier(button) {
    button.hidden = false;
    const said = document.getElementById("copied");
    const words = button.textContent;
    let timer = 0;
    const say = (text, short) => {
      said.textContent = text;
      button.textContent = short;
    };
    button.addEventListener("click", async () => {
      const done = await copy(document.getElementById(button.dataset.copy).textContent);
      button.focus();
      if (done) say("Copied", "Copied");
      else say("Not copied: select the text and copy it yourself", "Not copied");
      clearTimeout(timer);
      timer = setTimeout(say, 2000, "", words);
    });
  }

  all("table.cases").forEach(makeSortable);
  all(".scales").forEach(makeSwitch);
  all("button.copy").forEach(makeCopier);
})();
