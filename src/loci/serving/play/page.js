"use strict";
// What the server says is shown as it comes; what people do is sent, one thing after the other. What
// walks and episodes share is here; walk.js and task.js have the rest, in `scenes`.
const $ = (name) => document.querySelector(name);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const PACE = 60; // milliseconds between the frames of a stretch
const NAMES = { kv: "keys and values", frames: "raw frames", states: "states", map: "map",
  "key-frames": "key frames" };
const KINDS = { walk: "world-model", task: "world-action-model" };
const scenes = {}; // of each: begin, settle, what (a line of a card and its class), draw, key, replay
const cards = new Map(); // number of a memory, null for the truth -> what its card shows
let socket, models = {}, state = null, busy = false, waiting = [], chosen = null;

function connect() {
  socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/play`);
  socket.onmessage = (message) => heard(JSON.parse(message.data));
  socket.onclose = () => say("The server is gone; start it again and reload this page.", true);
  cards.set(null, { element: $("#truth"), frames: [], looked: {}, timer: 0 });
}

function heard(answer) {
  if (answer.names) {
    models = answer.names;
    for (const [scene, place] of [["walk", "#rooms"], ["task", "#tasks"]]) $(place).hidden = !named(scene).length;
    scenes.task.offer(answer);
    return scenes[Object.values(models)[0] === KINDS.walk ? "walk" : "task"].begin();
  }
  if (answer.rgb !== undefined) show(answer);
  if (!answer.done) return;
  busy = false;
  if (answer.error) {
    waiting = [];
    if (state) scenes[scene()].halt();
    say(answer.error, true);
  } else { settle(answer); }
  next();
}

const scene = () => (state ? (state.task ? "task" : "walk") : null);
const named = (scene) => Object.keys(models).filter((name) => models[name] === KINDS[scene]);

function act(event) { waiting.push(event); next(); }

function next() {
  if (busy || !waiting.length || socket.readyState !== WebSocket.OPEN) return;
  busy = true;
  socket.send(JSON.stringify(waiting.shift()));
}

function card(number) {
  if (!cards.has(number)) {
    const element = $("#memory").content.firstElementChild.cloneNode(true);
    element.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click",
      () => act({ do: button.dataset.do, number, ...(button.dataset.do === "exchange" && { seed: 11 }) })));
    element.addEventListener("pointerenter", () => choose(number));
    element.addEventListener("focusin", () => choose(number));
    $("#views").append(element);
    cards.set(number, { element, frames: [], looked: {}, timer: 0 });
  }
  return cards.get(number);
}

function choose(number) {
  if (chosen === number) return;
  chosen = number;
  draw();
}

function draw() {
  if (!state) return;
  const one = state.companions.find((c) => c.number === chosen);
  document.querySelectorAll(".whose").forEach((name) => { name.textContent = called(one); });
  scenes[scene()].draw($("#plan"), one, cards.get(chosen));
}

function show(answer) {
  const held = card(answer.number), bytes = Uint8Array.from(atob(answer.rgb), (c) => c.charCodeAt(0));
  const each = answer.height * answer.width, made = [];
  for (let n = 0; n < answer.count; n++) {
    const image = new ImageData(answer.width, answer.height);
    for (let i = 0, at = 3 * n * each; i < each; i++) {
      image.data.set([bytes[at++], bytes[at++], bytes[at++], 255], 4 * i);
    }
    made.push(image);
  }
  // Of an episode there are pictures between the frames that the memory knows.
  const frames = answer.frames ? answer.frames.map((n) => made[n]) : made;
  held.frames = answer.whole ? frames : held.frames.concat(frames);
  if (answer.whole) held.looked = {};
  if (answer.looked) held.looked = answer.looked;
  if (answer.times) held.times = answer.times;
  film(held, answer.whole || calm.matches ? made.slice(-1) : made);
}

function film(held, frames) {
  clearTimeout(held.timer);
  const canvas = held.element.querySelector(".view");
  const step = (n) => {
    canvas.width = frames[n].width; canvas.height = frames[n].height;
    canvas.getContext("2d").putImageData(frames[n], 0, 0);
    if (n + 1 < frames.length) held.timer = setTimeout(step, PACE, n + 1);
  };
  step(0);
}

function settle(answer) {
  state = answer;
  const there = new Set(answer.companions.map((one) => one.number));
  for (const number of [...cards.keys()]) {
    if (number !== null && !there.has(number)) { cards.get(number).element.remove(); cards.delete(number); }
  }
  if (!there.has(chosen)) chosen = answer.companions[0].number;
  const now = scenes[scene()], other = document.body.dataset.scene !== scene();
  if (other) {
    document.body.dataset.scene = scene();
    $("#names").replaceChildren(...named(scene()).map((name) => new Option(name)));
  }
  for (const one of answer.companions) {
    const held = card(one.number), what = held.element.querySelector(".what");
    const name = called(one);
    held.element.querySelector("h2").textContent = name;
    held.element.querySelector(".view").setAttribute("aria-label", `what ${name} shows`);
    const [words, kind] = now.what(one);
    what.textContent = words;
    what.className = `what ${kind}`;
    held.element.querySelector("dl").replaceChildren(...facts(one, held.times || {}));
    strip(held, one, now.seen(one), now.marks(one));
    most(held);
  }
  now.settle(answer);
  draw();
}

// Two of one name are told apart by their numbers.
function called(one) {
  const many = state.companions.filter((other) => other.name === one.name).length > 1;
  return many ? `${one.name} (${one.number})` : one.name;
}

const total = (held) => Object.values(held).reduce((sum, one) => sum + one, 0);
const kilobytes = (bytes) => `${Math.round(bytes / 1000).toLocaleString("en")} kB`;

function facts(one, times) {
  const lines = [["memory", kilobytes(total(one.held))]];
  for (const [store, bytes] of Object.entries(one.held)) {
    if (Object.keys(one.held).length > 1) lines.push([NAMES[store] || store, kilobytes(bytes)]);
  }
  if (one.tokens) lines.push(["tokens kept", one.tokens]);
  for (const [kind, frames] of Object.entries(one.kept)) lines.push([`frames kept, ${kind}`, frames.length]);
  for (const [stage, ms] of Object.entries(times)) lines.push([stage, `${Math.round(ms)} ms`]);
  return lines.flatMap(([name, value]) => {
    const pair = [document.createElement("dt"), document.createElement("dd")];
    pair[0].textContent = name; pair[1].textContent = value;
    return pair;
  });
}

function color(name) { return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`); }

// A bar a frame: what is left of it, and above how much of the attention it gets. marks: where
// between frames something was done.
function strip(held, one, opened, marks) {
  const canvas = held.element.querySelector(".strip"), count = opened.length;
  canvas.width = canvas.clientWidth * devicePixelRatio || 300;
  canvas.height = 34 * devicePixelRatio;
  const pen = canvas.getContext("2d"), wide = canvas.width / Math.max(count, 16), high = canvas.height;
  const whole = new Set(one.kept.clean || []), little = new Set(one.kept.gist || []);
  const most = Math.max(0.02, ...Object.values(held.looked));
  for (let n = 0; n < count; n++) {
    pen.fillStyle = color(opened[n] ? "seen" : "imagined");
    pen.globalAlpha = whole.has(n) ? 1 : little.has(n) ? 0.55 : 0.18;
    pen.fillRect(n * wide, high * 0.62, Math.max(1, wide - 1), high * 0.38);
    pen.globalAlpha = 1;
    pen.fillStyle = color("looked");
    const share = (held.looked[n] || 0) / most;
    pen.fillRect(n * wide, high * 0.56 * (1 - share), Math.max(1, wide - 1), high * 0.56 * share);
  }
  pen.fillStyle = color("wrong");
  for (const at of marks) pen.fillRect(at * wide - devicePixelRatio, 0, 2 * devicePixelRatio, high);
  canvas.setAttribute("aria-label",
    `frames of the past: ${whole.size} kept whole, ${little.size} as gists, of ${count}`);
}

// The frames that are looked at most, as they were seen.
function most(held) {
  const shares = Object.entries(held.looked).map(([frame, share]) => [Number(frame), share]);
  const first = shares.filter(([frame, share]) => held.frames[frame] && share > 0.005)
    .sort((a, b) => b[1] - a[1]).slice(0, 3);
  held.element.querySelector(".most").replaceChildren(...first.map(([frame, share]) => {
    const figure = document.createElement("figure"), canvas = document.createElement("canvas");
    const words = document.createElement("figcaption"), image = held.frames[frame];
    canvas.width = image.width; canvas.height = image.height;
    canvas.getContext("2d").putImageData(image, 0, 0);
    words.textContent = `${state.task ? "look" : "frame"} ${frame}: ${Math.round(100 * share)}\u00a0%`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "what it was");
    figure.append(canvas, words);
    return figure;
  }));
}

function say(words, wrong = false) {
  $("#said").textContent = words;
  $("#said").classList.toggle("wrong", wrong);
}

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, summary") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (scene() && scenes[scene()].key(event)) event.preventDefault();
});
$("#add").addEventListener("submit", (event) => {
  event.preventDefault();
  act({ do: "add", name: $("#names").value });
});
$("#save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(state.log)], { type: "application/json" }));
  link.download = `${scene()}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
});
$("#open").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  event.target.value = "";
  try {
    const log = JSON.parse(await file.text());
    waiting = [];
    log.forEach(act);
    Object.values(scenes).forEach((one) => one.replay(log));
  } catch (error) { say(`${file.name} is nothing that was saved here.`, true); }
});
addEventListener("resize", draw);

addEventListener("load", connect);
