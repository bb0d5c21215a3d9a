"use strict";
// An episode at a task: it runs or goes step by step; things are moved on the table from above.
const SPAN = { left: -0.42, width: 0.84, far: 0.46, height: 0.55 }; // of the table, in metres
const LAMPS = { red: "rgb(230, 50, 40)", green: "rgb(50, 190, 90)", blue: "rgb(60, 120, 255)" };
const STEPS = 2; // control steps that are asked for at once while it runs
let running = false, timer = 0, asked = 0, cross = { x: 0, y: 0.2 }, shownTask = null;

const over = () => state.companions.every((one) => one.over);
const table = () => state.companions.find((one) => one.number === chosen).table;
const spoken = (name) => name.replace("_", " ");

function run(now) {
  running = now && scene() === "task" && !over();
  clearTimeout(timer);
  $("#run").setAttribute("aria-pressed", String(running));
  $("#run").textContent = running ? "Pause" : "Run";
  if (running) tick();
}

// At the pace of the robot. Who likes things calm sees a picture a look.
function tick() {
  if (busy || waiting.length) return; // what is under way goes on when it is done
  asked = performance.now();
  act({ do: "step", steps: calm.matches ? toLook() : STEPS });
}

function toLook() {
  const steps = Math.max(...state.companions.map((one) => one.step));
  return state.every - steps % state.every;
}

function steps(count) {
  run(false);
  if (waiting.length < 1) act({ do: "step", steps: count });
}

function put() {
  const thing = $("#thing").value;
  if (thing) act({ do: "move", thing, x: cross.x, y: cross.y });
}

function aim(x, y) {
  const [[left, right], [near, far]] = table().area, round = (v) => Math.round(v * 1000) / 1000;
  cross = { x: round(Math.min(right, Math.max(left, x))), y: round(Math.min(far, Math.max(near, y))) };
  const under = table().objects.filter((one) => one.name !== $("#thing").value && !one.held
    && Math.abs(one.x - cross.x) < one.half && Math.abs(one.y - cross.y) < one.half).at(-1);
  $("#cross").textContent =
    `cross at ${cross.x.toFixed(2)}, ${cross.y.toFixed(2)}${under ? `, on ${under.name}` : ""}`;
  draw();
}

function words(note) {
  const start = `step ${note.step}: ${note.what}`;
  if (!note.thing) return start;
  if (note.after === null) return `${start}; ${note.now.length ? "not looked yet" : "hidden from all cameras"}`;
  if (note.after.length) return `${start}; seen at look ${note.first} by ${note.after.map(spoken).join(", ")}`;
  return note.first === null ? `${start}; in no camera's view since` : `${start}; not seen before look ${note.first}`;
}

function drawTable(canvas, one, held) {
  const wide = canvas.clientWidth * devicePixelRatio || 360, scale = wide / SPAN.width;
  canvas.width = wide;
  canvas.height = SPAN.height * scale;
  const pen = canvas.getContext("2d"), { area, objects, buttons, tips, lamp } = one.table;
  const x = (value) => (value - SPAN.left) * scale, y = (value) => (SPAN.far - value) * scale;
  const square = (at, half) => [x(at.x - half), y(at.y + half), 2 * half * scale, 2 * half * scale];
  const disc = (at, half) => { pen.beginPath(); pen.arc(x(at.x), y(at.y), half * scale, 0, 7); };
  pen.lineWidth = 1.5 * devicePixelRatio;
  pen.strokeStyle = color("line");
  const [[left, right], [near, far]] = area;
  pen.strokeRect(x(left), y(far), (right - left) * scale, (far - near) * scale);
  for (const button of buttons) { pen.fillStyle = `rgb(${button.rgb})`; disc(button, button.half); pen.fill(); }
  // Lids are drawn open, so that one sees what is under them: the cameras do not.
  for (const thing of [...objects].sort((a, b) => a.movable - b.movable || a.hollow - b.hollow)) {
    pen.fillStyle = pen.strokeStyle = `rgb(${thing.rgb})`;
    pen.lineWidth = (thing.hollow ? 4 : 1) * devicePixelRatio;
    if (!thing.hollow) pen.fillRect(...square(thing, thing.half));
    if (!thing.hollow) pen.strokeStyle = color("faint");
    pen.strokeRect(...square(thing, thing.half));
    if (thing.name === $("#thing").value) {
      pen.strokeStyle = color("ink"); pen.lineWidth = 2 * devicePixelRatio;
      pen.strokeRect(...square(thing, thing.half + 0.008));
    }
  }
  pen.fillStyle = LAMPS[lamp]; disc({ x: 0.36, y: 0.41 }, 0.025); pen.fill();
  pen.font = `${12 * devicePixelRatio}px system-ui`; pen.textAlign = "center"; pen.textBaseline = "middle";
  for (const tip of tips) {
    pen.fillStyle = color("card"); pen.globalAlpha = 0.7; disc(tip, 0.022); pen.fill();
    pen.fillStyle = pen.strokeStyle = color("ink"); pen.globalAlpha = 1; pen.stroke();
    pen.fillText(tip.arm[0].toUpperCase(), x(tip.x), y(tip.y));
  }
  pen.strokeStyle = color("looked"); pen.lineWidth = 2 * devicePixelRatio;
  if (!$("#thing").value) return;
  const arm = 0.025 * scale;
  pen.beginPath();
  pen.moveTo(x(cross.x) - arm, y(cross.y)); pen.lineTo(x(cross.x) + arm, y(cross.y));
  pen.moveTo(x(cross.x), y(cross.y) - arm); pen.lineTo(x(cross.x), y(cross.y) + arm);
  pen.stroke();
}

// What can be chosen for the next episode, and moved in this one.
function choices({ task, companions }) {
  const key = JSON.stringify([task.name, task.seed, task.cue, task.hold]);
  if (key === shownTask) return;
  shownTask = key;
  $("#policy").value = "";
  $("#what").value = "";
  $("#episode").value = task.seed;
  $("#hold").value = task.hold;
  $("#cue").replaceChildren(new Option("as the seed draws", ""),
    ...task.cues.map((cue) => new Option(`cue ${cue.join(", ")}`, JSON.stringify(cue))));
  $("#telling").hidden = !task.reads;
  const things = companions[0].table.objects.filter((one) => one.movable);
  $("#thing").replaceChildren(...things.map((one) => new Option(one.name)));
  for (const part of ["#hand", "#how"]) $(part).hidden = !things.length;
  if (things.length) aim(things[0].x, things[0].y);
  else $("#cross").textContent = "Nothing on this table can be moved.";
}

scenes.task = {
  offer(answer) {
    const options = (names) => names.map((name) => new Option(name));
    $("#policy").replaceChildren(new Option("as now", ""), ...options(named("task")));
    $("#what").replaceChildren(new Option("its own", ""), ...options(answer.tasks));
    $("#cue").replaceChildren(new Option("as the seed draws", ""));
  },
  begin() { act({ do: "task", seed: Number($("#episode").value) }); },
  settle(answer) {
    const { task, companions } = answer;
    choices(answer);
    $("#truth").hidden = true;
    $("#told").textContent = `Told: ${task.told}`;
    const plan = $("#plan");
    plan.tabIndex = 0;
    plan.setAttribute("role", "application");
    plan.setAttribute("aria-label", "the table from above; arrow keys move the cross, Enter puts the thing there");
    $("#red").disabled = !companions.some((one) => !one.over && one.table.lamp !== "green");
    for (const one of companions) {
      const element = card(one.number).element, [head, ...others] = one.cameras.map(spoken);
      element.querySelector(".cameras").textContent = others.length ? `above: ${others.join(", ")}; below: ${head}` : head;
      element.querySelector(".stages").replaceChildren(...task.stages.map((stage) => {
        const line = document.createElement("li"), at = one.reached[stage];
        line.textContent = at === undefined ? `○ ${stage}` : `✓ ${stage}, step ${at}`;
        line.className = at === undefined ? "" : "done";
        return line;
      }));
      element.querySelector(".notes").replaceChildren(...one.notes.map((note) => {
        const line = document.createElement("li");
        line.textContent = words(note);
        return line;
      }));
    }
    const each = companions.map((one) => {
      const last = task.stages.filter((stage) => stage in one.reached).at(-1), note = one.notes.at(-1);
      const how = one.over ? scenes.task.what(one)[0] : (last || "nothing reached yet");
      return `${called(one)}: ${how}${note ? `; ${words(note)}` : ""}`;
    });
    say(`Look ${Math.max(...companions.map((one) => one.looks)) - 1}. ${each.join(". ")}.`);
    if (!running) return;
    if (over()) run(false);
    clearTimeout(timer);
    const pause = 1000 * (calm.matches ? answer.every : STEPS) / answer.rate;
    if (running) timer = setTimeout(tick, Math.max(0, asked + pause - performance.now()));
  },
  what(one) {
    const other = one.trained ? "" : " (trained for another task)";
    if (one.success) return [`success, step ${one.step}`, "won"];
    if (one.over) return [`failed: ${one.failure}, step ${one.step}`, "lost"];
    const looks = one.looks * state.every;
    const when = one.step + state.every === looks ? "looks now" : `next look at ${looks}`;
    return [`step ${one.step} of ${state.task.limit}, ${when}${other}`, "seen"];
  },
  seen: (one) => Array(one.looks).fill(true),
  marks: (one) => one.notes.map((note) => note.step / state.every),
  draw: drawTable,
  key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const far = event.shiftKey ? 0.05 : 0.01, way = ways[event.key];
    if (event.target === $("#plan") && way && $("#thing").value) aim(cross.x + far * way[0], cross.y + far * way[1]);
    else if (event.target === $("#plan") && event.key === "Enter") put();
    else if (event.key === " " && !event.target.closest("button")) run(!running);
    else if (event.key === "ArrowRight") steps(1);
    else if (event.key.toLowerCase() === "n") steps(toLook());
    else return false;
    return true;
  },
  replay() { run(false); },
  halt() { run(false); },
};

$("#run").addEventListener("click", () => run(!running));
$("#step").addEventListener("click", () => steps(1));
$("#look").addEventListener("click", () => steps(toLook()));
$("#put").addEventListener("click", put);
$("#red").addEventListener("click", () => act({ do: "lamp", chunks: 4 }));
$("#thing").addEventListener("change", () => {
  const thing = table().objects.find((one) => one.name === $("#thing").value);
  aim(thing.x, thing.y);
});
$("#plan").addEventListener("click", (event) => {
  if (scene() !== "task" || !$("#thing").value) return;
  const box = event.target.getBoundingClientRect(), scale = SPAN.width / box.width;
  aim(SPAN.left + (event.clientX - box.left) * scale, SPAN.far - (event.clientY - box.top) * scale);
  put();
});
for (const part of ["#policy", "#what"]) {
  // What is to be remembered is another thing in another task.
  $(part).addEventListener("change", () => { $("#cue").replaceChildren(new Option("as the seed draws", "")); });
}
$("#task").addEventListener("submit", (event) => {
  event.preventDefault();
  run(false);
  const value = (name) => $(name).value, given = { do: "task", seed: Number(value("#episode")), hold: Number(value("#hold")) };
  if (value("#policy")) given.names = [value("#policy")];
  if (value("#what")) given.task = value("#what");
  if (value("#cue")) given.cue = JSON.parse(value("#cue"));
  if (!$("#telling").hidden && value("#instruction")) given.instruction = value("#instruction");
  act(given);
});
