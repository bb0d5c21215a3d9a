"use strict";
// A walk through a room: the keys that walk it, and the room from above.
let open = true;

// Keys that are held would pile up: of moves, one is under way and one waits.
function move(way) {
  if (scene() === "walk" && waiting.length < 1) act({ do: "go", move: way, seen: open });
}

function drawRoom(canvas, one, held) {
  const size = canvas.clientWidth * devicePixelRatio || 360;
  canvas.width = canvas.height = size;
  const pen = canvas.getContext("2d"), span = state.room ? Math.max(state.room.width, state.room.depth) + 0.6 : 6;
  const x = (value) => size / 2 + value / span * size, z = (value) => size / 2 - value / span * size;
  pen.lineWidth = 2 * devicePixelRatio;
  if (state.room) {
    pen.strokeStyle = color("line");
    const { width, depth } = state.room;
    pen.strokeRect(x(-width / 2), z(depth / 2), width / span * size, depth / span * size);
    for (const item of state.room.objects) {
      pen.fillStyle = `rgb(${item.rgb})`;
      pen.fillRect(x(item.x) - 6 * devicePixelRatio, z(item.z) - 6 * devicePixelRatio,
        12 * devicePixelRatio, 12 * devicePixelRatio);
    }
  }
  const whole = new Set(one.kept.clean || []), little = new Set(one.kept.gist || []);
  const most = Math.max(0.02, ...Object.values(held.looked));
  const dot = (n, radius) => {
    // Frames from one place lie around it, the way that they look.
    const [px, pz, dx, dz] = state.way[n];
    pen.beginPath(); pen.arc(x(px + 0.35 * dx), z(pz + 0.35 * dz), radius * devicePixelRatio, 0, 7);
  };
  state.way.forEach((_, n) => {
    pen.fillStyle = color("looked"); pen.globalAlpha = 0.45;
    dot(n, 14 * Math.sqrt((held.looked[n] || 0) / most)); pen.fill();
    pen.globalAlpha = 1;
    pen.fillStyle = color(state.seen[n] ? "seen" : "imagined");
    dot(n, 3); pen.fill();
    if (whole.has(n) || little.has(n)) {
      pen.strokeStyle = color("kept"); pen.lineWidth = (whole.has(n) ? 2 : 1) * devicePixelRatio;
      dot(n, whole.has(n) ? 6 : 5); pen.stroke();
    }
  });
  const [px, pz, dx, dz] = state.way.at(-1), angle = Math.atan2(-dz, dx), half = state.fov / 2 * Math.PI / 180;
  pen.fillStyle = color("ink"); pen.globalAlpha = 0.15;
  pen.beginPath(); pen.moveTo(x(px), z(pz)); pen.arc(x(px), z(pz), size / 3, angle - half, angle + half);
  pen.fill(); pen.globalAlpha = 1;
  pen.beginPath(); pen.arc(x(px), z(pz), 4 * devicePixelRatio, 0, 7); pen.fill();
}

function look(now) {
  open = now;
  $("#eyes").setAttribute("aria-pressed", String(open));
  $("#eyes").textContent = open ? "Eyes open" : "Eyes closed";
}

const WAYS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "forward", ArrowDown: "back",
  a: "left", d: "right", w: "forward", s: "back" };
document.querySelectorAll("[data-move]").forEach((button) =>
  button.addEventListener("click", () => move(button.dataset.move)));
$("#eyes").addEventListener("click", () => look(!open));
$("#undo").addEventListener("click", () => act({ do: "undo" }));
$("#room").addEventListener("submit", (event) => {
  event.preventDefault();
  look(true);
  act({ do: "room", seed: Number($("#seed").value) });
});
$("#picture").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  event.target.value = "";
  try {
    const image = await createImageBitmap(file), { height, width } = state;
    const canvas = new OffscreenCanvas(width, height), pen = canvas.getContext("2d");
    const scale = Math.max(width / image.width, height / image.height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, (width - image.width * scale) / 2, (height - image.height * scale) / 2,
      image.width * scale, image.height * scale);
    const { data } = pen.getImageData(0, 0, width, height);
    const rgb = Array.from(data).filter((_, n) => n % 4 < 3);
    look(false);
    act({ do: "picture", picture: { height, width, rgb: btoa(String.fromCharCode(...rgb)) } });
  } catch (error) { say(`${file.name} is no picture that this browser reads.`, true); }
});
// A gamepad's cross or left stick walks, its first button opens and closes the eyes.
let pressed = new Set();
function pad() {
  const now = new Set();
  for (const one of navigator.getGamepads()) {
    if (!one) continue;
    const [across = 0, down = 0] = one.axes, on = (n) => one.buttons[n] && one.buttons[n].pressed;
    if (on(14) || across < -0.6) now.add("left");
    if (on(15) || across > 0.6) now.add("right");
    if (on(12) || down < -0.6) now.add("forward");
    if (on(13) || down > 0.6) now.add("back");
    if (on(0)) now.add("eyes");
  }
  for (const one of now) {
    if (one === "eyes") { if (!pressed.has(one)) look(!open); } else move(one);
  }
  pressed = now;
  requestAnimationFrame(pad);
}
addEventListener("gamepadconnected", pad, { once: true });

scenes.walk = {
  begin() { act({ do: "room", seed: Number($("#seed").value) }); },
  settle(answer) {
    const seen = answer.seen.at(-1);
    $("#truth").hidden = answer.room === null;
    const plan = $("#plan");
    plan.removeAttribute("tabindex");
    plan.setAttribute("role", "img");
    plan.setAttribute("aria-label", "the way through the room, from above");
    const sums = answer.companions.map((one) => `${called(one)} holds ${kilobytes(total(one.held))}`);
    say(`Frame ${answer.seen.length}, eyes ${seen ? "open" : "closed"}. ${sums.join("; ")}.`);
  },
  what: () => (state.seen.at(-1) ? ["seen", "seen"] : ["imagined", "imagined"]),
  seen: () => state.seen,
  marks: () => [],
  draw: drawRoom,
  key(event) {
    if (WAYS[event.key]) move(WAYS[event.key]);
    else if (event.key === "Backspace") act({ do: "undo" });
    else if (event.key === " " && !event.target.closest("button")) look(!open);
    else return false;
    return true;
  },
  replay(log) { look(log.reduce((now, one) => (one.do === "go" ? one.seen : now), true)); },
  halt() {},
};
