// Behaviour of the results page. No libraries, no network; everything it shows is in the page already.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const sentences = all(".linked");
  const figures = all("figure");
  const rows = all("#scores tbody tr");
  const pick = byId("pick");
  const related = byId("related");
  const RELATED_SHOWN = 8;
  // What is on show now. Only this is changed, never all: a report may have thousands of sentences.
  let figure = null;
  let detail = null;
  let shown = null; // the sentence whose detail and picture are on show
  let pinned = null; // the sentence that was clicked
  let hoverTimer = 0;

  // ---- pictures

  function showFigure(number) {
    clearTimeout(hoverTimer); // what was asked for last wins
    if (figure) figure.hidden = true;
    figure = figures[number] || null;
    if (figure) figure.hidden = false;
    if (pick && figure) pick.value = String(number);
    all("button.show").forEach((b) => b.setAttribute("aria-pressed", String(Number(b.dataset.figure) === number)));
  }

  function showDetail(sentence) {
    if (detail) detail.hidden = true;
    if (shown) shown.classList.remove("shown");
    shown = sentence;
    detail = sentence && byId(`detail-${sentence.dataset.sentence}`);
    if (sentence) sentence.classList.add("shown");
    if (detail) detail.hidden = false;
    showRelated();
  }

  function showSentence(sentence) {
    if (sentence !== shown) showDetail(sentence);
    showFigure("figure" in sentence.dataset ? Number(sentence.dataset.figure) : -1);
  }

  function pin(sentence) {
    if (pinned) pinned.setAttribute("aria-pressed", "false");
    pinned = sentence;
    if (!sentence) return;
    sentence.setAttribute("aria-pressed", "true");
    showSentence(sentence);
  }

  // The highest probabilities of the organs that the sentence speaks of, with their heat maps.
  function showRelated() {
    const organs = detail ? detail.dataset.organs.split("|").filter(Boolean) : [];
    const value = (row) => Number(row.querySelector(".probability").dataset.value);
    const scored = rows.filter((row) => "scored" in row.dataset && organs.includes(row.dataset.organ));
    scored.sort((a, b) => value(b) - value(a));
    const list = related.querySelector("ul");
    list.replaceChildren(...scored.slice(0, RELATED_SHOWN).map(relatedItem));
    related.hidden = !scored.length;
  }

  function relatedItem(row) {
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.textContent = `${row.cells[0].textContent}: ${row.cells[1].firstChild.textContent}`;
    const probability = document.createElement("span");
    probability.className = "probability";
    probability.append(...[...row.querySelector(".probability").childNodes].map((node) => node.cloneNode(true)));
    const button = row.querySelector("button.show");
    const end = button ? button.cloneNode(true) : document.createElement("span");
    item.append(name, probability, end);
    return item;
  }

  // ---- the report

  function move(from, step) {
    const next = sentences[Math.max(0, Math.min(sentences.length - 1, sentences.indexOf(from) + step))];
    if (next) next.focus();
  }

  function later(sentence) {
    clearTimeout(hoverTimer);
    if (sentence) hoverTimer = setTimeout(() => showSentence(sentence), 140);
  }

  const text = document.querySelector("#report .text");
  const at = (event) => event.target.closest(".linked");
  if (text) {
    text.addEventListener("click", (event) => { if (at(event) && !String(getSelection())) pin(at(event)); });
    text.addEventListener("focusin", (event) => { if (at(event)) showSentence(at(event)); });
    text.addEventListener("mouseover", (event) => later(at(event) || pinned));
    text.addEventListener("mouseleave", () => later(pinned));
    text.addEventListener("keydown", (event) => {
      const on = at(event);
      const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -sentences.length, End: sentences.length };
      if (!on && event.target === text && event.key === "ArrowDown" && sentences.length) {
        sentences[0].focus();
      } else if (on && event.key in steps) {
        move(on, steps[event.key]);
      } else if (on && (event.key === "Enter" || event.key === " ")) {
        pin(on);
      } else if (event.key === "Escape") {
        pin(null);
      } else {
        return;
      }
      event.preventDefault();
    });
  }

  document.addEventListener("click", (event) => {
    const go = event.target.closest("a[data-go]");
    const target = go && byId(`s${go.dataset.go}`);
    if (target) {
      event.preventDefault();
      target.scrollIntoView({ block: "nearest" });
      if (target.classList.contains("linked")) { pin(target); target.focus({ preventScroll: true }); }
      return;
    }
    const button = event.target.closest("button.show");
    if (!button) return;
    if (!button.closest("#viewer")) { pin(null); showDetail(null); }
    showFigure(Number(button.dataset.figure));
    byId("viewer").scrollIntoView({ block: "nearest" });
  });
  if (pick) pick.addEventListener("change", () => { pin(null); showDetail(null); showFigure(Number(pick.value)); });
  // A click on a picture shows it at its own size and back.
  figures.forEach((f) => f.addEventListener("click", () => f.classList.toggle("large")));

  // ---- the table

  function sortBy(header) {
    const descending = header.getAttribute("aria-sort") === "none" ? header.dataset.kind === "number"
      : header.getAttribute("aria-sort") === "ascending";
    all("#scores thead th[aria-sort]").forEach((th) => th.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const column = header.cellIndex;
    const sign = descending ? -1 : 1;
    const key = (row) => {
      const cell = row.cells[column];
      if (header.dataset.kind === "text") return cell.textContent.trim();
      return cell && "value" in cell.dataset ? Number(cell.dataset.value) : null; // a reason spans the columns
    };
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null); // what was not scored stays last
      return sign * (typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true }));
    };
    byId("scores").tBodies[0].append(...[...rows].sort(compare));
  }

  function filterRows() {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const organ = byId("filter-organ").value;
    const scoredOnly = byId("filter-scored").checked;
    const disagree = byId("filter-disagree");
    let count = 0;
    rows.forEach((row) => {
      const content = row.textContent.toLowerCase();
      const keep = words.every((w) => content.includes(w)) && (!organ || row.dataset.organ === organ)
        && (!scoredOnly || "scored" in row.dataset) && (!disagree || !disagree.checked || "disagrees" in row.dataset);
      row.hidden = !keep;
      count += keep;
    });
    byId("count").textContent = count === rows.length ? String(count) : `${count} of ${rows.length}`;
  }

  all("#scores thead button").forEach((b) => b.addEventListener("click", () => sortBy(b.closest("th"))));
  if (rows.length) {
    ["input", "change"].forEach((kind) => document.querySelector(".filter").addEventListener(kind, filterRows));
    document.querySelector(".filter").addEventListener("submit", (event) => event.preventDefault());
  }

  const first = sentences.find((s) => "figure" in s.dataset);
  if (first) showSentence(first); else if (figures.length) showFigure(0);
})();
