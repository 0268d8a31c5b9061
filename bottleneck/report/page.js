"use strict";
// The images of the page are a list in a JSON element, and texts enter the page as text only.
const page = JSON.parse(document.getElementById("content").textContent);
const $ = (id) => document.getElementById(id);
const rows = page.images.map(([path, source, missing, labels, split, x, y, ...given]) => (
  { path, source, missing, labels, split, x, y, given, left: 0, top: 0 }
));
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
let head = 0;
const givenTo = (row) => row.given[head];
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
const RESULTS = {
  wrong: (given) => given && given[2] === false,
  right: (given) => given && given[2] === true,
  scored: (given) => given && given[2] !== null,
  unscored: (given) => !given || given[2] === null,
  differ: (given, row) => new Set(row.given.map((each) => each && named(each[0]))).size > 1,
  missed: (given, row, wanted) => lacking(row.labels || [], given[0], wanted.label),
  false: (given, row, wanted) => lacking(given[0], row.labels || [], wanted.predicted),
};
const lacking = (some, others, wanted) => some.some((each) => (wanted === "" || each === Number(wanted)) && !others.includes(each));

// The controls are read once, not for each row.
function filter() {
  const wanted = Object.fromEntries(controls.map((name) => [name, value(name)]));
  const text = wanted.text.toLowerCase(), low = Number(wanted.low || 0) / 100, high = Number(wanted.high || 100) / 100;
  const has = (numbers, each) => each === "" || (numbers || []).includes(Number(each));
  const result = RESULTS[wanted.result], ofClass = ["missed", "false"].includes(wanted.result);
  return (row) => {
    const given = givenTo(row);
    if ((picked && !picked.has(row)) || !has(row.labels, wanted.label)) return false;
    if (wanted.split !== "" && row.split !== Number(wanted.split)) return false;
    if (text && !row.path.toLowerCase().includes(text)) return false;
    if (!page.heads.length) return true;
    if (!has(given && given[0], wanted.predicted)) return false;
    if (ofClass && !RESULTS.scored(given)) return false;
    if (result && !result(given, row, wanted)) return false;
    return given ? given[1] >= low && given[1] <= high : low === 0;
  };
}

function refresh(total = 0) {
  head = Number(value("head") || 0);
  found = rows.filter(filter());
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
  const empty = Object.fromEntries(controls.map((name) => [name, ""]));
  const chosen = { ...empty, head: value("head"), order: "high", ...values };
  for (const [name, each] of Object.entries(chosen)) if ($(`f-${name}`)) $(`f-${name}`).value = each;
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
let start = null, focused = null, printing = false;
const LIGHT = ["#0072b2", "#c04f00", "#00795a", "#a8327e", "#7a6000", "#5b4db3", "#b3261e", "#006d75", "#666", "#3d6b00"];
const DARK = ["#56b4e9", "#ff9d52", "#3ddbaa", "#f29ccb", "#f0e442", "#b3a8ff", "#ff8f87", "#4fd6e0", "#c8c8c8", "#a5d86a"];
const shade = (row) => (row.labels && row.labels.length ? row.labels[0] : -1), frequency = new Map();
for (const row of placed) frequency.set(shade(row), (frequency.get(shade(row)) || 0) + 1);
const classes = [...frequency.keys()].sort((a, b) => frequency.get(b) - frequency.get(a));

function colour(label) {
  const palette = dark.matches && !printing ? DARK : LIGHT, place = classes.indexOf(label);
  if (place < palette.length && classes.length <= palette.length) return palette[place];
  return `hsl(${(place * 137.5) % 360} 65% ${dark.matches && !printing ? 68 : 33}%)`;
}

const spot = (row) => [row.left, row.top];

function circle(pen, row, radius, how) {
  pen.beginPath();
  pen.arc(row.left, row.top, radius, 0, 7);
  pen[how]();
}

function drawMap() {
  if (!canvas) return;
  canvas.style.height = `${Math.min(560, Math.max(280, 0.6 * canvas.clientWidth))}px`;
  const across = canvas.clientWidth, down = canvas.clientHeight, scale = devicePixelRatio || 1, pen = canvas.getContext("2d");
  [canvas.width, canvas.height] = [across * scale, down * scale];
  const shades = new Map(classes.map((label) => [label, colour(label)])), visible = new Set(found);
  for (const each of document.querySelectorAll("#legend [data-label]")) each.querySelector("i").style.background = shades.get(Number(each.dataset.label));
  pen.scale(scale, scale);
  pen.strokeStyle = getComputedStyle(document.body).getPropertyValue("--bad");
  pen.lineWidth = 2;
  const radius = placed.length > 4000 ? 2 : placed.length > 800 ? 3 : 4.5;
  for (const row of placed) {
    [row.left, row.top] = [MARGIN + row.x * (across - 2 * MARGIN), MARGIN + (1 - row.y) * (down - 2 * MARGIN)];
    const given = givenTo(row);
    pen.globalAlpha = visible.has(row) ? 0.85 : 0.12;
    pen.fillStyle = shades.get(shade(row));
    if (radius > 2) circle(pen, row, radius, "fill");
    else pen.fillRect(row.left - radius, row.top - radius, 2 * radius, 2 * radius); // much faster
    if (given && given[2] === false) circle(pen, row, radius + 3, "stroke");
  }
  outline();
}

// A box that needs no new drawing of the points: around what is being selected, or the focused point.
function outline(end = null) {
  const [from, to] = start && end ? [start, end] : focused ? [-10, 10].map((by) => spot(focused).map((each) => each + by)) : [];
  $("box").hidden = !from;
  if (!from) return;
  ["left", "top"].forEach((side, place) => { $("box").style[side] = `${Math.min(from[place], to[place])}px`; });
  ["width", "height"].forEach((side, place) => { $("box").style[side] = `${Math.abs(from[place] - to[place])}px`; });
}

function nearest(x, y, within, allowed = () => true) {
  let best = null, least = within ** 2;
  for (const row of placed) {
    const distance = (row.left - x) ** 2 + (row.top - y) ** 2;
    if (distance < least && allowed(row.left - x, row.top - y)) [best, least] = [row, distance];
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
  outline();
}

function select(event) {
  const here = [event.offsetX, event.offsetY], from = start;
  const inside = (each, place) => (each - from[place]) * (each - here[place]) <= 0;
  const far = from && Math.hypot(here[0] - from[0], here[1] - from[1]) > 5, row = far ? null : nearest(...here, 14);
  start = null;
  outline();
  if (row) openImage(row);
  if (!far) return;
  picked = new Set(placed.filter((each) => spot(each).every(inside)));
  refresh();
}

if (canvas) {
  canvas.addEventListener("pointerdown", (event) => { start = [event.offsetX, event.offsetY]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (start) outline([event.offsetX, event.offsetY]);
    showTip(start ? null : nearest(event.offsetX, event.offsetY, 14));
  });
  canvas.addEventListener("pointerup", select);
  canvas.addEventListener("pointercancel", () => { start = null; outline(); });
  for (const name of ["pointerleave", "blur"]) canvas.addEventListener(name, () => showTip(null));
  canvas.addEventListener("keydown", onMapKey);
  for (const label of classes.slice(0, 20)) {
    const button = element("button", { type: "button" }, element("i"), isolated(label < 0 ? "no class" : page.names[label]), ` (${frequency.get(label)})`);
    button.addEventListener("click", () => choose({ label: label < 0 ? "" : label }));
    $("legend").append(element("li", { "data-label": label }, button));
  }
  if (classes.length > 20) $("legend").append(element("li", { class: "muted" }, `and ${classes.length - 20} more classes`));
  new ResizeObserver(drawMap).observe(canvas);
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
  $("dialog").addEventListener("keydown", ({ key }) => { if (key === "ArrowRight" || key === "ArrowLeft") step(key === "ArrowLeft" ? -1 : 1); });
  $("previous").addEventListener("click", () => step(-1));
  $("next-image").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("dialog").close());
  refresh();
  dark.addEventListener("change", drawMap);
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
    printing = true;
    drawMap();
  });
  addEventListener("afterprint", () => { printing = false; drawMap(); });
}
