// The page of a review. Rows arrive in parts and are held as columns; only the cards that can be seen are in the page.
// What comes from files is set as text, never as HTML.
"use strict";

const CARD = { width: 186, height: 244 };  // px, least width; with the gaps
const PART = 4000;  // rows of one request
const WAIT = 60;  // ms that a card must stay in view before its picture is asked for
const POLL = 3000;  // ms between two looks for decisions of other tabs

const rows = {};  // column -> values
const decided = new Map();  // id -> {decision, who, when, why}
const numbers = new Map();  // id -> number of the row
const done = [];  // numbers of the rows that this tab decided about, for undo
const state = { about: null, loaded: 0, view: [], at: 0, open: false, outline: true, lines: 0, columns: 1, cards: new Map() };

function made(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}
const number = value => value === null || value === undefined ? "–" : value.toFixed(3);
const current = () => state.view[state.at];

// --- Filters and order ---

function field(label, control) {
  const holder = made("label", label);
  holder.append(control);
  $("filters").append(holder);
  return control;
}

function select(id, options) {
  const control = made("select");
  control.id = id;
  for (const [value, text] of options) control.append(new Option(text, value));
  control.addEventListener("change", () => refresh());
  return control;
}

function makeFilters(about) {
  const any = [["", "all"]];
  if (about.decides) field("Decision", select("by-review", [...any, ["none", "not reviewed"], ["accept", "accepted"], ["reject", "rejected"]]));
  for (const one of about.filters) if (one.values.length > 1) field(one.label, select(`by-${one.column}`, [...any, ...one.values.map(v => [v, v])]));
  if (about.sorts.length) {
    field("Sort by", select("sort", [["", "order of the set"], ...about.sorts.map(one => [one.column, one.label])]));
    field("Order", select("order", [["1", "low to high"], ["-1", "high to low"]]));
    for (const [id, label] of [["least", "Score from"], ["most", "to"]]) {
      const control = field(label, made("input"));
      Object.assign(control, { id, type: "number", step: "0.01", title: "Of the score that is sorted by; else the agreement with the mask" });
      control.addEventListener("input", () => refresh());
    }
  }
  $("filters").addEventListener("submit", event => event.preventDefault());
}

function refresh() {
  const kept = current(), value = id => $(id) ? $(id).value : "";
  const wanted = state.about.filters.map(one => [rows[one.column], value(`by-${one.column}`)]).filter(([, v]) => v);
  const review = value("by-review"), sort = value("sort"), sign = Number(value("order") || 1);
  const scores = rows[sort || "score"], bounded = value("least") !== "" || value("most") !== "";
  const least = value("least") === "" ? -Infinity : Number(value("least")), most = value("most") === "" ? Infinity : Number(value("most"));
  const found = [];
  for (let row = 0; row < state.loaded; row++) {
    if (!wanted.every(([column, v]) => column[row] === v)) continue;
    if (review && (decided.get(rows.id[row])?.decision ?? "none") !== review) continue;
    if (bounded && (scores[row] === null || scores[row] < least || scores[row] > most)) continue;
    found.push(row);
  }
  if (sort) {
    const keys = Float64Array.from(scores, value => value === null ? Infinity : sign * value);  // without a score: last
    found.sort((a, b) => keys[a] - keys[b] || a - b);
  }
  state.view = found;
  const place = kept === undefined ? -1 : found.indexOf(kept);
  state.at = place >= 0 ? place : 0;
  layOut();
  if (state.loaded === state.about.count) say(`${found.length.toLocaleString("en")} of ${state.about.count.toLocaleString("en")} cases are listed.`);
}

// --- The list: only what can be seen ---

function layOut() {
  const width = $("grid").clientWidth;
  if (!width) return;
  state.columns = Math.max(2, Math.floor(width / CARD.width));
  $("space").style.height = `${Math.ceil(state.view.length / state.columns) * CARD.height}px`;
  for (const card of state.cards.values()) card.remove();
  state.cards.clear();
  draw();
}

function draw() {
  const grid = $("grid"), first = Math.max(0, Math.floor(grid.scrollTop / CARD.height) - 1) * state.columns;
  const last = Math.min(state.view.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / CARD.height) + 1) * state.columns);
  for (const [place, card] of state.cards) if (place < first || place >= last) { card.remove(); state.cards.delete(place); }
  for (let place = first; place < last; place++) if (!state.cards.has(place)) {
    const card = cardOf(place);
    state.cards.set(place, card);
    $("space").append(card);
  }
  mark();
}

function cardOf(place) {
  const row = state.view[place], card = made("div", undefined, "card"), inner = made("div");
  card.id = `card-${place}`;
  card.setAttribute("role", "option");
  card.setAttribute("aria-setsize", state.view.length);
  card.setAttribute("aria-posinset", place + 1);
  const width = 100 / state.columns;
  card.style.cssText = "";
  Object.assign(card.style, { width: `${width}%`, height: `${CARD.height}px`, left: `${(place % state.columns) * width}%`,
    top: `${Math.floor(place / state.columns) * CARD.height}px` });
  inner.append(made("div", pictured(row) === undefined ? "no picture" : "", "shot"), made("div", undefined, "text"));
  card.append(inner);
  card.addEventListener("click", () => { state.at = place; mark(); open(); });
  describe(card, row);
  if (pictured(row) !== undefined) setTimeout(() => { if (card.isConnected) show(card, row); }, WAIT);
  return card;
}

function describe(card, row) {
  const text = card.querySelector(".text"), review = decided.get(rows.id[row])?.decision;
  const verdict = review ? made("span", review === "accept" ? "accepted" : "rejected", `tag ${review}`) : made("span", "not reviewed", "tag none");
  const score = rows.score ? `${rows.decision[row]} · ${number(rows.score[row])} · ${rows.size[row]}` : `${rows.split[row]} · ${rows.kind[row]}`;
  text.replaceChildren(made("b", rows.id[row]), made("span", rows.prompt[row] || "no prompt", "prompt"), made("span", score, "line"), ...(state.about.decides ? [verdict] : []));
  card.setAttribute("aria-label", `${rows.id[row]}, ${score}, ${state.about.decides ? verdict.textContent + ", " : ""}${rows.prompt[row]}`);
}

function pictured(row) {  // the row whose picture shows the case, if any
  return rows.picture[row] ? row : rows.shown_in[row] ? numbers.get(rows.shown_in[row]) : undefined;
}

function show(card, row) {
  const image = made("img");
  image.alt = "";
  image.src = `thumbnail/${pictured(row)}?outline=${state.outline}`;
  image.addEventListener("error", () => card.querySelector(".shot").replaceChildren("cannot be read"));
  card.querySelector(".shot").replaceChildren(image);
}

function mark() {
  for (const [place, card] of state.cards) card.setAttribute("aria-selected", place === state.at);
  const has = state.cards.has(state.at);
  if (has) $("grid").setAttribute("aria-activedescendant", `card-${state.at}`);
  else $("grid").removeAttribute("aria-activedescendant");
}

function move(step) { go(Math.min(Math.max(0, state.at + step), state.view.length - 1)); }

function go(place) {
  if (!state.view.length || place < 0) return;
  state.at = place;
  if (state.open) return fill();
  const grid = $("grid"), top = Math.floor(place / state.columns) * CARD.height;
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + CARD.height > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + CARD.height - grid.clientHeight;
  draw();
}

// --- One case ---

function open() {
  if (current() === undefined) return;
  state.open = true;
  $("grid").hidden = $("filtering").hidden = true;
  $("case").hidden = false;
  fill();
  $("case-name").focus();
}

function close() {
  state.open = false;
  $("case").hidden = true;
  $("grid").hidden = $("filtering").hidden = false;
  layOut();
  go(state.at);
  $("grid").focus();
}

function figure(title, text, source, described) {
  const holder = made("figure"), hold = made("div", source ? undefined : text, "hold"), caption = made("figcaption");
  if (source) {
    const image = made("img");
    image.alt = described;
    image.src = source;
    image.addEventListener("error", () => hold.replaceChildren("This picture cannot be read."));
    hold.tabIndex = 0;  // it scrolls when pixels are shown one by one
    hold.setAttribute("role", "group");
    hold.setAttribute("aria-label", title);
    hold.append(image);
  }
  caption.append(made("b", title), source && text ? `: ${text}` : "");
  holder.append(caption, hold);
  return holder;
}

const outlined = () => `outline=${state.outline}`;
const realPicture = id => `real?id=${encodeURIComponent(id)}&${outlined()}`;

async function fill() {
  const row = current(), id = rows.id[row], name = state.about.real ? "Painted" : state.about.decides ? "Picture" : "Image";
  $("case-name").textContent = id;
  verdict();
  $("why").value = decided.get(id)?.why ?? "";
  $("case").scrollTop = 0;
  const shown = pictured(row), figures = [figure(name, shown === undefined ? "The gate stopped it: there is no picture." : "",
    shown === undefined ? "" : `frame/${shown}?${outlined()}`, `${name} of ${id}`)];
  $("pictures").replaceChildren(...figures);
  $("facts").replaceChildren();
  try {
    const found = await ask(`facts/${row}`);
    if (current() !== row) return;
    for (const [key, value] of Object.entries(found.facts)) $("facts").append(made("dt", key), made("dd", value));
    if (!state.about.real) return;
    $("pictures").append(found.example ? figure("Example", found.example, realPicture(found.example), `Real lesion of ${found.example}, which it was painted from`)
      : figure("Example", "The data set does not hold the case that it was painted from."));
    if (shown !== undefined) nearest(row, shown);
  } catch (error) { say(error.message, true); }
}

async function nearest(row, shown) {
  const title = "Nearest real lesion", waiting = figure(title, "Training lesions are being measured …");
  $("pictures").append(waiting);
  for (;;) {
    let found;
    try { found = await ask(`nearest/${shown}`); } catch (error) { say(error.message, true); return; }
    if (current() !== row || !waiting.isConnected) return;
    if (found.measured < found.of) {
      waiting.querySelector(".hold").textContent = `Training lesions are being measured: ${found.measured} of ${found.of}.`;
      await new Promise(go => setTimeout(go, 700));
      continue;
    }
    waiting.replaceWith(found.id ? figure(title, `${found.id}, ${found.distance.toFixed(2)} standard deviations away by its attributes`, realPicture(found.id), `Nearest real lesion, ${found.id}`)
      : figure(title, "There is no lesion to compare with."));
    return;
  }
}

function verdict() {
  const review = decided.get(rows.id[current()]), word = { accept: "Accepted", reject: "Rejected" }[review?.decision];
  $("verdict").replaceChildren(review ? made("span", word, `tag ${review.decision}`) : made("span", state.about.decides ? "Not reviewed" : "", "tag none"),
    review ? ` by ${review.who}, ${review.when.slice(0, 10)}${review.why ? `: ${review.why}` : ""}` : "");
  $("verdict").hidden = !state.about.decides;
}

function setOutline(on) {
  state.outline = on;
  $("outline").checked = on;
  if (state.open) fill(); else layOut();
  say(on ? "Outlines are shown." : "Outlines are hidden.");
}

function pixels() {
  const on = $("pictures").classList.toggle("pixels");
  $("size").setAttribute("aria-pressed", on);
}

// --- Decisions ---

let waiting = Promise.resolve();  // decisions are sent one after the other
function decide(decision) {
  if (!state.about.decides || current() === undefined) return;
  if (decision === "undo") { waiting = waiting.then(undo); return; }
  const row = current(), why = state.open ? $("why").value : "", last = state.at >= state.view.length - 1;
  if (!last) move(1);
  waiting = waiting.then(() => record(row, decision, why, last));
}

async function record(row, decision, why, last) {
  const id = rows.id[row], word = { accept: "accepted", reject: "rejected" }[decision];
  try { take(await ask("decide", { row, decision, why })); } catch (error) { return say(`${id} was not ${word}. ${error.message}`, true); }
  done.push(row);
  say(`${id} is ${word}. ${last ? "This was the last case of the list." : `Now ${rows.id[current()]}.`}`);
}

async function undo() {
  const row = done.pop(), id = rows.id[row];
  if (row === undefined) return say("This tab has decided nothing that could be undone.");
  try { take(await ask("decide", { row, decision: "undo", why: "" })); } catch (error) { done.push(row); return say(error.message, true); }
  const place = state.view.indexOf(row);
  if (place >= 0) go(place);
  say(`The decision about ${id} is taken back.`);
}

function take(found) {
  state.lines = Math.max(state.lines, found.lines);
  for (const [id, review] of Object.entries(found.changed)) {
    if (review) decided.set(id, review); else decided.delete(id);
  }
  for (const [place, card] of state.cards) if (rows.id[state.view[place]] in found.changed) describe(card, state.view[place]);
  if (state.open && rows.id[current()] in found.changed) verdict();
  count();
}

function count() {
  const values = [...decided.values()], of = kind => values.filter(one => one.decision === kind).length.toLocaleString("en");
  const total = state.about.count.toLocaleString("en"), cases = state.about.count === 1 ? "case" : "cases";
  $("counts").textContent = state.about.decides ? `${total} ${cases}, ${of("accept")} accepted, ${of("reject")} rejected · reviewer ${state.about.who}` : `${total} ${cases}, to look at`;
}

async function poll() {
  try { const found = await ask(`decisions?since=${state.lines}`); if (Object.keys(found.changed).length) take(found); } catch (error) { say(error.message, true); }
  setTimeout(poll, POLL);
}

// --- Keys ---

const KEYS = { a: () => decide("accept"), r: () => decide("reject"), u: () => decide("undo"), n: () => move(1), p: () => move(-1),
  o: () => setOutline(!state.outline), z: () => state.open && pixels(), w: () => state.open && state.about.decides && $("why").focus() };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !state.about) return;
  const inText = event.target.matches("input[type=text], input[type=number], select");
  if (inText) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.id === "why")) { $(state.open ? "case-name" : "grid").focus(); event.preventDefault(); }
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, page = Math.max(1, Math.floor($("grid").clientHeight / CARD.height)) * state.columns;
  const inGrid = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: state.columns, ArrowUp: -state.columns, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (KEYS[key]) KEYS[key]();
  else if (state.open && key === "Escape") close();
  else if (!state.open && event.target.id === "grid" && key in inGrid) move(inGrid[key]);
  else if (!state.open && event.target.id === "grid" && (key === "Enter" || key === " ")) open();
  else return;
  event.preventDefault();
}

// --- Start ---

async function start() {
  try {
    const about = await ask("about");
    state.about = about;
    document.title = `${about.name} · diffaug review`;
    $("name").textContent = about.name;
    $("kind").textContent = about.kind === "data" ? "data set" : "review";
    $("decide").hidden = !about.decides;
    $("why").maxLength = about.why;
    makeFilters(about);
    count();
    for (let first = 0; first < about.count; first += first ? PART : 200) {  // the first part is small: it is seen at once
      const part = await ask(`rows?start=${first}&count=${first ? PART : 200}`);
      for (const [name, values] of Object.entries(part)) { rows[name] ??= []; for (const value of values) rows[name].push(value); }
      for (let row = state.loaded; row < rows.id.length; row++) numbers.set(rows.id[row], row);
      state.loaded = rows.id.length;
      if (!first) { const found = await ask("decisions"); take(found); refresh(); $("grid").focus(); }
      say(`Reading: ${state.loaded.toLocaleString("en")} of ${about.count.toLocaleString("en")} cases.`);
      if (first && plain()) grow();
    }
    if (plain()) grow(); else refresh();
    document.body.dataset.read = "all";
    say(about.count ? `All ${about.count.toLocaleString("en")} cases are read.` : "There are no cases.");
    if (about.decides) setTimeout(poll, POLL);
  } catch (error) { say(error.message, true); }
}

const plain = () => [...$("filters").elements].every(one => one.id === "order" || one.value === "");
function grow() {  // while rows arrive, the list without a filter gets longer at its end
  for (let row = state.view.length; row < state.loaded; row++) state.view.push(row);
  $("space").style.height = `${Math.ceil(state.view.length / state.columns) * CARD.height}px`;
  for (const card of state.cards.values()) card.setAttribute("aria-setsize", state.view.length);
  draw();
}

const clicks = { back: close, previous: () => move(-1), next: () => move(1), size: pixels, accept: () => decide("accept"), reject: () => decide("reject"), undo: () => decide("undo") };
for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
$("grid").addEventListener("scroll", () => requestAnimationFrame(draw));
$("outline").addEventListener("change", () => setOutline($("outline").checked));
if (matchMedia("(max-width: 620px)").matches) $("filtering").open = false;
new ResizeObserver(() => { if (!state.open && state.about && rows.id) layOut(); }).observe($("grid"));
document.addEventListener("keydown", onKey);
start();
