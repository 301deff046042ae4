"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const svgs = [...document.querySelectorAll("svg[data-figure]")];
const marks = new Map(); // trial number -> its elements, in figures and tables
for (const element of document.querySelectorAll("[data-t]")) {
  const number = element.dataset.t;
  if (!marks.has(number)) marks.set(number, []);
  marks.get(number).push(element);
}

// one trial at a time is shown in all figures: the one under the pointer, else the one that was clicked
const tip = document.getElementById("tip");
let pinned = null, shown = null;
function show(number) {
  if (number === shown) return;
  for (const element of marks.get(shown) || []) element.classList.remove("is-on");
  for (const element of marks.get(number) || []) element.classList.add("is-on");
  for (const svg of svgs) svg.classList.toggle("is-picking", number !== null);
  shown = number;
}
document.addEventListener("pointermove", (event) => {
  const mark = event.target.closest("svg [data-t]");
  const row = event.target.closest("tr[data-t]");
  show(mark ? mark.dataset.t : row ? row.dataset.t : pinned);
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = data.trials[mark.dataset.t];
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${Math.max(4, event.clientY + 14 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 14)}px`;
});
document.addEventListener("click", (event) => {
  const mark = event.target.closest("svg [data-t]") || (event.target.closest("td button") && event.target.closest("tr"));
  if (!mark) return;
  pinned = pinned === mark.dataset.t ? null : mark.dataset.t;
  for (const button of document.querySelectorAll("td button")) {
    button.setAttribute("aria-pressed", String(button.closest("tr").dataset.t === pinned));
  }
  show(pinned);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { pinned = null; show(null); tip.hidden = true; }
});

// the table: sorted by a click on a heading, searched by a word, cut until all is asked for
const table = document.getElementById("trials");
const body = table?.tBodies[0];
const search = document.getElementById("search");
const more = document.getElementById("more");
const FIRST = 30;
let isWhole = !table || body.rows.length <= FIRST;
function renew() {
  if (!table) return;
  const words = search.value.toLowerCase().split(/\s+/);
  let found = 0;
  for (const row of body.rows) {
    const fits = words.every((word) => row.textContent.toLowerCase().includes(word));
    row.hidden = !fits || (!isWhole && found >= FIRST);
    found += fits;
  }
  more.hidden = isWhole || found <= FIRST;
  more.textContent = `Show all ${found}`;
}
search?.addEventListener("input", renew);
more?.addEventListener("click", () => { isWhole = true; renew(); });
for (const button of table?.querySelectorAll("th button") ?? []) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const key = (row) => row.cells[head.cellIndex].dataset.v ?? row.cells[head.cellIndex].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what is missing comes last, either way
      const difference = Number(x) - Number(y);
      return sign * (Number.isNaN(difference) ? x.localeCompare(y) : difference);
    };
    body.append(...[...body.rows].sort(compare));
    renew();
  });
}
renew();

// parallel coordinates: a stretch of an axis leaves only the trials that pass there
const parallel = document.querySelector('svg[data-figure="parallel"]');
if (parallel) {
  const { x, top, bottom, low, places } = data.parallel;
  const made = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parallel.append(element);
    return element;
  };
  const ranges = x.map(() => null);
  const height = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(parallel.getScreenCTM().inverse());
    return Math.min(Math.max(point.y, top), bottom);
  };
  const value = (y) => 1 - ((y - top) / (bottom - top)) * (1 - low);
  const filter = () => {
    for (const [number, at] of Object.entries(places)) {
      const isOut = ranges.some((range, i) => range && (at[i] < range[0] || at[i] > range[1]));
      for (const element of marks.get(number)) if (parallel.contains(element)) element.classList.toggle("is-out", isOut);
    }
  };
  x.forEach((center, i) => {
    const chosen = made("rect", { class: "brushed", x: center - 5, width: 10, y: top, height: 0, visibility: "hidden" });
    const strip = made("rect", { class: "brush", x: center - 8, width: 16, y: top, height: bottom - top });
    let start = null;
    const reset = () => { ranges[i] = null; chosen.setAttribute("visibility", "hidden"); filter(); };
    strip.addEventListener("pointerdown", (event) => { start = height(event); strip.setPointerCapture(event.pointerId); });
    strip.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const [a, b] = [start, height(event)].sort((p, q) => p - q);
      if (b - a < 2) return;
      ranges[i] = [value(b) - 1e-6, value(a) + 1e-6];
      chosen.setAttribute("y", a);
      chosen.setAttribute("height", b - a);
      chosen.setAttribute("visibility", "visible");
      filter();
    });
    strip.addEventListener("pointerup", () => { start = null; });
    strip.addEventListener("dblclick", reset);
  });
}

// a page that is served while its sweep runs: loaded again as long as there is a server, and left as it is afterwards
if (data.refresh) {
  const look = async () => {
    try {
      await fetch(location.href, { method: "HEAD", cache: "no-store" });
    } catch {
      document.querySelector("footer").textContent = "The sweep has ended; report.html in its folder is its last state.";
      return;
    }
    if (pinned === null && !search?.value) location.reload();
    else setTimeout(look, 1000 * data.refresh);
  };
  setTimeout(look, 1000 * data.refresh);
}
