"use strict";
// The page works without this script; it moves the sliders, and reads a live page again without losing the place.
(() => {
  const kept = (() => {
    // a browser that keeps nothing for files still shows the page
    try { return JSON.parse(sessionStorage.getItem(location.pathname + location.search)) || {}; } catch { return {}; }
  })();
  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  function showPreviews(box) {
    const shown = read(box.dataset.from), slider = box.querySelector("input");
    const pictures = [...box.querySelectorAll("img")], output = box.querySelector("output");
    const button = box.querySelector("button"), matrix = box.querySelector(".matrix");
    const move = () => {
      const at = Number(slider.value), step = shown.steps[at];
      pictures.forEach((picture, column) => {
        picture.src = shown.urls[at][column];
        picture.alt = `After step ${step}: ${shown.prompts[column]}`;
      });
      output.textContent = `step ${step}`;
      slider.setAttribute("aria-valuetext", `step ${step}`);
    };
    slider.addEventListener("input", move);
    move();
    button.addEventListener("click", () => {
      if (matrix.hidden && !matrix.firstChild) matrix.append(makeMatrix(shown));
      matrix.hidden = !matrix.hidden;
      button.setAttribute("aria-expanded", String(!matrix.hidden));
      button.textContent = matrix.hidden ? "Show all steps" : "Hide all steps";
    });
    if (kept[`open ${matrix.id}`]) button.click();
  }

  function makeMatrix(shown) {
    const table = document.createElement("table"), head = table.createTHead().insertRow();
    for (const text of ["step", ...shown.prompts]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = text;
      head.append(cell);
    }
    const body = table.createTBody();
    shown.steps.forEach((step, at) => {
      const row = body.insertRow(), name = document.createElement("th");
      name.scope = "row";
      name.textContent = step;
      row.append(name);
      shown.urls[at].forEach((url, column) => {
        const picture = document.createElement("img");
        picture.src = url;
        picture.alt = `After step ${step}: ${shown.prompts[column]}`;
        row.insertCell().append(picture);
      });
    });
    return table;
  }

  function nearest(values, step) {
    let low = 0, high = values.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (values[middle][0] <= step) low = middle; else high = middle;
    }
    return Math.abs(values[high][0] - step) < Math.abs(values[low][0] - step) ? high : low;
  }

  function followPlot(box) {
    const data = read(box.dataset.from), plot = box.querySelector(".plot"), slider = box.querySelector("input");
    const output = box.querySelector("output"), cursor = plot.querySelector(".cursor");
    const dots = [...plot.querySelectorAll(".dot")];
    const height = (value) => {
      const by = data.log ? Math.log : (number) => number;
      return 100 * (by(value) - by(data.low)) / (by(data.high) - by(data.low));
    };
    const across = (step) => 100 * (step - data.first) / (data.last - data.first);
    const move = () => {
      const step = Number(slider.value), words = [];
      cursor.style.left = `${across(step)}%`;
      data.lines.forEach((line, number) => {
        const [at, value] = line.values[nearest(line.values, step)];
        dots[number].style.left = `${across(at)}%`;
        dots[number].style.bottom = `${height(value)}%`;
        words.push(`${line.name} ${value}`);
      });
      output.textContent = `step ${step}: ${words.join(" · ")}`;
      slider.setAttribute("aria-valuetext", output.textContent);
    };
    slider.addEventListener("input", move);
    plot.addEventListener("pointermove", (event) => {
      const room = plot.getBoundingClientRect();
      slider.value = data.first + (event.clientX - room.left) / room.width * (data.last - data.first);
      move();
    });
    move();
  }

  const sliders = [...document.querySelectorAll('input[type="range"]')];
  for (const slider of sliders) {
    // who looked at the newest step goes on looking at the newest
    if (slider.id in kept && !kept[slider.id].last) slider.value = kept[slider.id].value;
  }
  document.querySelectorAll("[data-previews]").forEach(showPreviews);
  document.querySelectorAll("[data-plot]").forEach(followPlot);
  const folds = [...document.querySelectorAll("details[id]")];
  for (const fold of folds) if (fold.id in kept) fold.open = kept[fold.id];
  addEventListener("beforeprint", () => folds.forEach((fold) => { if (fold.dataset.print) fold.open = true; }));
  if (kept.focus) document.getElementById(kept.focus)?.focus({ preventScroll: true });

  const seconds = Number(document.body.dataset.live || 0);
  if (!seconds) return;
  const age = document.getElementById("age"), minutes = (Date.now() / 1000 - Number(age?.dataset.written)) / 60;
  if (minutes > 10) {
    age.querySelector("span").textContent = String(Math.round(minutes));
    age.hidden = false;
  }
  if (kept.scroll) scrollTo(0, kept.scroll);
  let busy = false;
  addEventListener("pointerdown", () => { busy = true; });
  addEventListener("pointerup", () => { busy = false; });
  const save = () => {
    const state = { scroll: scrollY, focus: document.activeElement?.id || "" };
    for (const slider of sliders) state[slider.id] = { value: slider.value, last: slider.value === slider.max };
    for (const fold of folds) state[fold.id] = fold.open;
    for (const matrix of document.querySelectorAll(".matrix")) state[`open ${matrix.id}`] = !matrix.hidden;
    try { sessionStorage.setItem(location.pathname + location.search, JSON.stringify(state)); } catch { /* see above */ }
  };
  const again = () => {
    // not while somebody drags a slider, marks text, or looks at another page
    if (busy || document.hidden || String(getSelection())) { setTimeout(again, 1000); return; }
    save();
    location.reload();
  };
  setTimeout(again, 1000 * seconds);
})();
