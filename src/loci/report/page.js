// Without this script everything is on the page; with it, tables sort and filter, and a film's
// controls stand below its picture.
"use strict";

// A cell's number, or its text where it has none.
const worth = cell => {
  const text = cell.firstChild ? cell.firstChild.textContent.trim() : "";
  const number = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(number) ? text : number;
};

for (const table of document.querySelectorAll("table.data")) {
  // Groups have an order of their own.
  if (table.querySelector("tr.head")) continue;
  const body = table.tBodies[0], rows = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.title = "Sort by this column";
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const sorted = [...rows].sort((a, b) => {
        const [x, y] = [worth(a.cells[column]), worth(b.cells[column])];
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
        const order = typeof x === "number" ? y - x : x.localeCompare(y);
        return falling ? order : -order;
      });
      body.append(...sorted);
    });
  });
}

for (const families of document.querySelectorAll(".families")) {
  families.hidden = false;
  families.addEventListener("change", () => {
    const shown = [...families.querySelectorAll("input:checked")].map(input => input.value);
    for (const row of families.closest(".block").querySelectorAll("tbody tr")) {
      row.hidden = Boolean(row.dataset.family) && !shown.includes(row.dataset.family);
    }
  });
}

for (const video of document.querySelectorAll("video")) {
  const bar = document.createElement("div"), play = document.createElement("button");
  const place = document.createElement("input");
  bar.className = "player";
  play.type = "button";
  play.textContent = "Play";
  Object.assign(place, { type: "range", min: 0, max: 1, step: "any", value: 0 });
  place.setAttribute("aria-label", "Position in " + video.getAttribute("aria-label"));
  bar.append(play, place);
  video.controls = false;
  video.after(bar);
  play.addEventListener("click", () => video.paused ? video.play() : video.pause());
  video.addEventListener("click", () => play.click());
  for (const event of ["play", "pause"]) {
    video.addEventListener(event, () => { play.textContent = video.paused ? "Play" : "Pause"; });
  }
  place.addEventListener("input", () => {
    if (video.duration) video.currentTime = place.value * video.duration;
    else video.load();
  });
  video.addEventListener("timeupdate", () => {
    if (video.duration) place.value = video.currentTime / video.duration;
  });
}
