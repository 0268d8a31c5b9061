"use strict";
// The images of the page are a list in a JSON element, and texts enter the page as text only.
const page = JSON.parse(document.getElementById("content").textContent);
const $ = (id) => document.getElementById(id);
const rows = page.images.map((row, place) => {
  const [path, source, missing, labels, split, x, y, ...given] = row;
  return { place, path, source, missing, labels, split, x, y, given };
});
const STEP = 60;
const controls = ["head", "label", "predicted", "split", "result", "low", "high", "text", "order"];
const named = (numbers) => numbers.map((each) => page.names[each]).join("; ") || "none";
let found = [], shown = 0, picked = null, current = -1, inAll = 0;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const isolated = (text) => element("bdi", {}, text);
const value = (name) => ($(`f-${name}`) ? $(`f-${name}`).value : "");
const headNumber = () => Number(value("head") || 0);
const givenTo = (row) => row.given[headNumber()];
const percent = (share) => `${(100 * share).toFixed(1)}%`;

function picture(row) {
  if (!row.source) return element("span", { class: "none" }, row.missing || "no picture");
  return element("img", { src: page.prefix + row.source, alt: `Image ${row.path}` });
}

function verdict(given) {
  if (given === null || given === undefined) return element("span", { class: "fact muted" }, "not predicted");
  const [labels, confidence, right] = given;
  const line = element("span", { class: "fact" }, "predicted ", isolated(named(labels)), ` ${percent(confidence)} `);
  const words = right === null ? ["muted", "not scored"] : right ? ["good", "right"] : ["bad", "wrong"];
  line.append(element("span", { class: words[0] }, words[1]));
  return line;
}

function card(row) {
  const made = element("button", { class: "card", type: "button" }, picture(row));
  if (row.labels) made.append(element("span", { class: "fact" }, "class ", isolated(named(row.labels))));
  if (page.heads.length) made.append(verdict(givenTo(row)));
  made.append(element("span", { class: "path" }, isolated(row.path)));
  made.addEventListener("click", () => openImage(row));
  return made;
}

// The gallery and its filters.
function matches(row) {
  const given = givenTo(row), result = value("result"), text = value("text").toLowerCase();
  const has = (numbers, wanted) => wanted === "" || (numbers || []).includes(Number(wanted));
  if (picked && !picked.has(row.place)) return false;
  if (!has(row.labels, value("label"))) return false;
  if (value("split") !== "" && row.split !== Number(value("split"))) return false;
  if (text && !row.path.toLowerCase().includes(text)) return false;
  if (!page.heads.length) return true;
  if (!has(given && given[0], value("predicted"))) return false;
  if (result === "wrong" && !(given && given[2] === false)) return false;
  if (result === "right" && !(given && given[2] === true)) return false;
  if (result === "unscored" && given && given[2] !== null) return false;
  if (result === "differ" && new Set(row.given.map((each) => each && named(each[0]))).size < 2) return false;
  const low = Number(value("low") || 0) / 100, high = Number(value("high") || 100) / 100;
  return given ? given[1] >= low && given[1] <= high : low === 0;
}

function refresh(total = 0) {
  found = rows.filter(matches);
  inAll = total;
  const confidence = (row) => (givenTo(row) ? givenTo(row)[1] : -1), order = value("order");
  const training = page.splits.indexOf("train"); // whose predictions are not held out
  const rank = (row) => (givenTo(row) && givenTo(row)[2] === false ? (row.split === training ? 1 : 0) : 2);
  if (order === "wrong") found.sort((a, b) => rank(a) - rank(b) || confidence(b) - confidence(a));
  if (order === "high") found.sort((a, b) => confidence(b) - confidence(a));
  if (order === "low") found.sort((a, b) => confidence(a) - confidence(b));
  $("gallery").replaceChildren();
  shown = 0;
  showMore();
  drawMap();
}

function showMore() {
  $("gallery").append(...found.slice(shown, shown + STEP).map(card));
  shown = Math.min(found.length, shown + STEP);
  const chosen = picked ? `, of ${picked.size} selected on the map` : "";
  const more = inAll > found.length ? ` All images have ${inAll} of these; the others are not on this page.` : "";
  $("count").textContent = `${found.length} of ${rows.length} images match${chosen}; ${shown} shown.${more}`;
  $("more").hidden = shown >= found.length;
  $("unpick").hidden = !picked;
}

function choose(values, total = 0) {
  for (const name of controls) {
    if ($(`f-${name}`) && name !== "order" && name !== "head") $(`f-${name}`).value = "";
  }
  for (const [name, each] of Object.entries(values)) if ($(`f-${name}`)) $(`f-${name}`).value = each;
  if ($("f-order")) $("f-order").value = "high";
  picked = null;
  refresh(total);
  $("images").scrollIntoView();
  $("count").focus({ preventScroll: true });
}

// One image, with all that is known of it.
function openImage(row) {
  const facts = element("dl");
  const fact = (name, ...told) => facts.append(element("dt", {}, name), element("dd", {}, ...told));
  fact("path", isolated(row.path));
  if (row.labels) fact("class", isolated(named(row.labels)));
  if (row.split >= 0) fact("split", page.splits[row.split]);
  page.heads.forEach((name, place) => fact(name, verdict(row.given[place])));
  $("one").replaceChildren(picture(row), facts);
  current = found.indexOf(row);
  if (!$("dialog").open) $("dialog").showModal();
}

function step(by) {
  if (found.length) openImage(found[(current + by + found.length) % found.length]);
}

function onGridKey(event) {
  const cards = [...$("gallery").children], place = cards.indexOf(document.activeElement);
  if (place < 0) return;
  const across = cards.filter((each) => each.offsetTop === cards[0].offsetTop).length;
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
  if (by === undefined || !cards[place + by]) return;
  event.preventDefault();
  cards[place + by].focus();
}

// Tables sort by the number of a cell, or its text.
function sortBy(header) {
  const table = header.closest("table"), place = header.cellIndex, body = table.tBodies[0];
  const up = header.getAttribute("aria-sort") !== "ascending";
  const key = (row) => row.cells[place].dataset.value ?? row.cells[place].textContent.trim();
  const compare = (a, b) => {
    const [one, other] = [key(a), key(b)], numbers = [Number(one), Number(other)];
    if (one === "" || other === "") return (one === "") - (other === ""); // nothing comes last
    const order = numbers.some(Number.isNaN) ? one.localeCompare(other, undefined, { numeric: true })
      : numbers[0] - numbers[1];
    return up ? order : -order;
  };
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...[...body.rows].sort(compare));
}

// The map: points in the colour of their class; a ring around those that the head gets wrong.
const canvas = $("canvas"), placed = rows.filter((row) => row.x !== null), MARGIN = 14;
const dark = matchMedia("(prefers-color-scheme: dark)");
let start = null, end = null, focused = null, printing = false;
const LIGHT = ["#0072b2", "#c04f00", "#00795a", "#a8327e", "#7a6000", "#5b4db3", "#b3261e", "#006d75", "#666", "#3d6b00"];
const DARK = ["#56b4e9", "#ff9d52", "#3ddbaa", "#f29ccb", "#f0e442", "#b3a8ff", "#ff8f87", "#4fd6e0", "#c8c8c8", "#a5d86a"];
const frequency = new Map();
for (const row of placed) {
  const label = row.labels && row.labels.length ? row.labels[0] : -1;
  frequency.set(label, (frequency.get(label) || 0) + 1);
}
const classes = [...frequency.keys()].sort((a, b) => frequency.get(b) - frequency.get(a));

function colour(label) {
  const palette = dark.matches && !printing ? DARK : LIGHT, place = classes.indexOf(label);
  if (place < palette.length && classes.length <= palette.length) return palette[place];
  return `hsl(${(place * 137.5) % 360} 65% ${dark.matches && !printing ? 68 : 38}%)`;
}

function spot(row) {
  const width = canvas.clientWidth - 2 * MARGIN, height = canvas.clientHeight - 2 * MARGIN;
  return [MARGIN + row.x * width, MARGIN + (1 - row.y) * height];
}

function drawMap() {
  if (!canvas) return;
  const scale = devicePixelRatio || 1, pen = canvas.getContext("2d"), style = getComputedStyle(document.body);
  canvas.style.height = `${Math.min(560, Math.max(280, 0.6 * canvas.clientWidth))}px`;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  pen.scale(scale, scale);
  const visible = new Set(found.map((row) => row.place)), bad = style.getPropertyValue("--bad");
  const radius = placed.length > 4000 ? 2 : placed.length > 800 ? 3 : 4.5;
  for (const row of placed) {
    const [x, y] = spot(row), given = givenTo(row);
    pen.globalAlpha = visible.has(row.place) ? 0.85 : 0.12;
    pen.fillStyle = colour(row.labels && row.labels.length ? row.labels[0] : -1);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.fill();
    if (!given || given[2] !== false) continue;
    pen.strokeStyle = bad;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, y, radius + 3, 0, 7);
    pen.stroke();
  }
  pen.globalAlpha = 1;
  pen.strokeStyle = style.getPropertyValue("--text");
  pen.lineWidth = 2;
  if (focused) pen.strokeRect(...spot(focused).map((each) => each - 10), 20, 20);
  if (start && end) pen.strokeRect(start[0], start[1], end[0] - start[0], end[1] - start[1]);
}

function nearest(x, y, within, allowed = () => true) {
  let best = null, least = within ** 2;
  for (const row of placed) {
    const [left, top] = spot(row), distance = (left - x) ** 2 + (top - y) ** 2;
    if (distance < least && allowed(left - x, top - y)) [best, least] = [row, distance];
  }
  return best;
}

function showTip(row) {
  $("tip").hidden = !row;
  if (!row) return;
  $("tip").replaceChildren(picture(row), element("span", { class: "fact" }, isolated(row.labels ? named(row.labels) : row.path)));
  if (page.heads.length) $("tip").append(verdict(givenTo(row)));
  const [x, y] = spot(row);
  $("tip").style.left = `${Math.max(0, Math.min(x + 14, canvas.clientWidth - 240))}px`;
  $("tip").style.top = `${y + 14}px`;
}

function onMapKey(event) {
  const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
  if (way && placed.length) {
    const [x, y] = focused ? spot(focused) : [0, 0];
    const ahead = (dx, dy) => dx * way[0] + dy * way[1] > Math.abs(dx * way[1] + dy * way[0]);
    focused = focused ? nearest(x, y, 1e5, ahead) || focused : placed[0];
    showTip(focused);
  } else if (event.key === "Enter" && focused) openImage(focused);
  else if (event.key === "Escape") [picked, focused] = [null, null], showTip(null), refresh();
  else return;
  event.preventDefault();
  drawMap();
}

function select(event) {
  const far = start && Math.hypot(event.offsetX - start[0], event.offsetY - start[1]) > 5;
  if (far) {
    const inside = (each, place) => (each - start[place]) * (each - [event.offsetX, event.offsetY][place]) <= 0;
    picked = new Set(placed.filter((row) => spot(row).every(inside)).map((row) => row.place));
    refresh();
  } else {
    const row = nearest(event.offsetX, event.offsetY, 14);
    if (row) openImage(row);
  }
  start = end = null;
  drawMap();
}

if (canvas) {
  canvas.addEventListener("pointerdown", (event) => { start = [event.offsetX, event.offsetY]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (start) end = [event.offsetX, event.offsetY], drawMap();
    showTip(start ? null : nearest(event.offsetX, event.offsetY, 14));
  });
  canvas.addEventListener("pointerup", select);
  canvas.addEventListener("pointercancel", () => { start = end = null; drawMap(); });
  canvas.addEventListener("pointerleave", () => showTip(null));
  canvas.addEventListener("blur", () => showTip(null));
  canvas.addEventListener("keydown", onMapKey);
  for (const label of classes.slice(0, 20)) {
    const button = element("button", { type: "button" }, element("i"), isolated(label < 0 ? "no class" : page.names[label]), ` (${frequency.get(label)})`);
    button.addEventListener("click", () => choose({ label: label < 0 ? "" : label }));
    $("legend").append(element("li", { "data-label": label }, button));
  }
  if (classes.length > 20) $("legend").append(element("li", { class: "muted" }, `and ${classes.length - 20} more classes`));
  new ResizeObserver(drawMap).observe(canvas);
}

function paint() {
  for (const each of document.querySelectorAll("#legend [data-label]")) each.querySelector("i").style.background = colour(Number(each.dataset.label));
  drawMap();
}

for (const each of document.querySelectorAll("th button")) each.addEventListener("click", () => sortBy(each.closest("th")));
for (const each of document.querySelectorAll("[data-choose]")) each.addEventListener("click", () => choose(JSON.parse(each.dataset.choose), Number(each.dataset.total || 0)));
if ($("gallery")) {
  for (const name of controls) if ($(`f-${name}`)) $(`f-${name}`).addEventListener("input", () => refresh());
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(() => { picked = null; refresh(); }));
  $("more").addEventListener("click", showMore);
  $("unpick").addEventListener("click", () => { picked = null; refresh(); });
  $("gallery").addEventListener("keydown", onGridKey);
  $("dialog").addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  });
  $("previous").addEventListener("click", () => step(-1));
  $("next-image").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("dialog").close());
  refresh();
  paint();
  dark.addEventListener("change", paint);
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
    printing = true;
    paint();
  });
  addEventListener("afterprint", () => { printing = false; paint(); });
}
