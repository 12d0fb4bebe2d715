// What the pages of a review and of a blind session share: they load it before their own script.
"use strict";

const $ = id => document.getElementById(id);

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try { answer = await fetch(path, options); } catch { throw new Error("The server does not answer: was `diffaug review` ended?"); }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(typeof found.error === "string" ? found.error : `The server answered ${answer.status}.`);
  return found;
}

function say(text, bad = false) { $("status").textContent = text; $("status").classList.toggle("bad", bad); }
