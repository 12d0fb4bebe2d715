// The page of a blind session: one frame at a time, at its own size, and three answers. It does not know what a frame is.
"use strict";

const state = { about: null, at: 1, busy: false };
const BUTTONS = { real: "real", painted: "painted", "cannot-tell": "cannot tell" };

function show() {
  const { about, at } = state, given = about.answers[at], count = Object.keys(about.answers).length, finished = about.result.length > 0;
  $("counts").textContent = `${count} of ${about.count} frames answered · reader ${about.who}`;
  $("case-name").textContent = `Frame ${at} of ${about.count}`;
  for (const [id, answer] of Object.entries(BUTTONS)) {
    $(id).setAttribute("aria-pressed", given === answer);
    $(id).disabled = finished;
  }
  $("previous").disabled = at <= 1;
  $("next").disabled = at >= about.count;
  $("result").hidden = !finished;
  $("result").replaceChildren(...about.result.map(line => Object.assign(document.createElement("p"), { textContent: line })));
  if ($("pictures").dataset.frame === String(at)) return;
  $("pictures").dataset.frame = at;
  const figure = document.createElement("figure"), hold = document.createElement("div"), image = document.createElement("img");
  hold.className = "hold";
  hold.tabIndex = 0;
  hold.setAttribute("role", "group");
  hold.setAttribute("aria-label", `Frame ${at}`);
  image.alt = `Frame ${at}, real or painted`;
  image.src = `frame/${at}`;
  image.addEventListener("error", () => hold.replaceChildren("This picture cannot be read."));
  hold.append(image);
  figure.append(hold);
  $("pictures").replaceChildren(figure);
}

function go(step) {
  state.at = Math.min(Math.max(1, state.at + step), state.about.count);
  show();
}

async function answer(word) {
  if (state.busy || !state.about || state.about.result.length) return;
  state.busy = true;
  try {
    state.about = await ask("answer", { number: state.at, answer: word });
    const said = `Frame ${state.at}: ${word}.`;
    if (state.about.result.length) { show(); say(`${said} All frames are answered.`); $("result").tabIndex = -1; $("result").focus(); }
    else {
      if (state.at === state.about.count) state.at = first();
      else state.at += 1;
      show();
      say(`${said} Now frame ${state.at}.`);
    }
  } catch (error) { say(error.message, true); }
  state.busy = false;
}

function first() {  // the first frame without an answer
  for (let at = 1; at <= state.about.count; at++) if (!state.about.answers[at]) return at;
  return 1;
}

const KEYS = { r: () => answer("real"), p: () => answer("painted"), c: () => answer("cannot tell"), n: () => go(1), b: () => go(-1) };
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || !state.about || !KEYS[event.key.toLowerCase()]) return;
  KEYS[event.key.toLowerCase()]();
  event.preventDefault();
});
for (const [id, word] of Object.entries(BUTTONS)) $(id).addEventListener("click", () => answer(word));
$("previous").addEventListener("click", () => go(-1));
$("next").addEventListener("click", () => go(1));
ask("about").then(about => { state.about = about; state.at = first(); show(); $("case-name").focus(); }).catch(error => say(error.message, true));
