// The player: what is chosen, and the pictures of it.

const page = document.body;
const find = (selector) => document.querySelector(selector);
const SVG = "http://www.w3.org/2000/svg";

// -- what is chosen: by the controls, at first by the address (player.html#basis=aligned&kind=flow&width=16) ---------

const asked = new URLSearchParams(location.hash.slice(1));
const widths = Object.keys(data.zoos);
const state = { basis: "aligned", kind: "flow", width: widths[0], time: 0, network: 0 };
for (const name of ["basis", "kind", "width"]) {
  const value = asked.get(name);
  if (data.scenes.some((scene) => String(scene[name]) === value)) state[name] = value;
}
if (["light", "dark"].includes(asked.get("theme"))) document.documentElement.dataset.theme = asked.get("theme");

const scene = () => scenes.find((one) => one.basis === state.basis && one.kind === state.kind && String(one.width) === state.width);
const last = scenes[0].times - 1;
state.network = farthest(scene());
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** The network that ends farthest out in the picture: it is easily followed. */
function farthest(one) {
  const end = at(one.points, one, last, 2);
  const radius = Array.from({ length: one.networks }, (_, n) => Math.hypot(end[2 * n], end[2 * n + 1]));
  return radius.indexOf(Math.max(...radius));
}

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function draw(parent, name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

// -- left: the cloud -------------------------------------------------------------------------------------------------

const cloud = find(".cloud svg");
const [WIDE, HIGH] = [400, 360];

/** From codes to the picture, with room for every moment of the scene. */
function plane(one) {
  const all = [...one.points, ...one.members];
  const reach = (parity) => Math.max(...all.filter((_, i) => i % 2 === parity).map(Math.abs)) * 1.1;
  const scale = Math.min(WIDE / 2 / reach(0), HIGH / 2 / reach(1));
  return (x, y) => [WIDE / 2 + scale * x, HIGH / 2 - scale * y];
}

function drawCloud(one) {
  const place = plane(one);
  cloud.replaceChildren();
  for (let m = 0; m < one.members.length; m += 2) {
    const [cx, cy] = place(one.members[m], one.members[m + 1]);
    draw(cloud, "circle", { class: "member", cx, cy, r: 6 });
  }
  const now = at(one.points, one, state.time, 2);
  for (let n = 0; n < one.networks; n += 1) {
    const way = [];
    for (let t = 0; t <= Math.floor(state.time); t += 1) {
      const i = 2 * (t * one.networks + n);
      way.push(place(one.points[i], one.points[i + 1]));
    }
    way.push(place(now[2 * n], now[2 * n + 1]));
    draw(cloud, "polyline", { class: n === state.network ? "trail own" : "trail", points: way.map((xy) => xy.map((v) => v.toFixed(1)).join()).join(" ") });
  }
  for (let n = 0; n < one.networks; n += 1) {
    const [cx, cy] = place(now[2 * n], now[2 * n + 1]);
    draw(cloud, "circle", { class: "network", cx, cy, r: 4.5 });
    if (n === state.network) draw(cloud, "circle", { class: "chosen", cx, cy, r: 9 });
  }
}

cloud.addEventListener("click", (event) => {  // which a finger that scrolls does not make
  const box = cloud.getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) * WIDE / box.width, (event.clientY - box.top) * HIGH / box.height];
  const now = at(scene().points, scene(), state.time, 2);
  const place = plane(scene());
  const far = Array.from({ length: scene().networks }, (_, n) => Math.hypot(...place(now[2 * n], now[2 * n + 1]).map((v, i) => v - [x, y][i])));
  state.network = far.indexOf(Math.min(...far));
  show();
});

// -- middle: accuracy against time -----------------------------------------------------------------------------------

const chart = find(".course svg");
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 388, 14, 326];
const acrossTime = (time) => LEFT + (RIGHT - LEFT) * time / last;
const upAccuracy = (share) => BOTTOM - (BOTTOM - TOP) * share;
const line = (values) => values.map(([t, v]) => `${acrossTime(t).toFixed(1)},${upAccuracy(v).toFixed(1)}`).join(" ");

function drawChart(one) {
  chart.replaceChildren();
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    draw(chart, "line", { class: "grid", x1: LEFT, x2: RIGHT, y1: upAccuracy(share), y2: upAccuracy(share) });
    draw(chart, "text", { x: LEFT - 7, y: upAccuracy(share) + 4, "text-anchor": "end" }).textContent = `${100 * share}%`;
  }
  for (const t of [0, 0.5, 1]) {
    draw(chart, "text", { x: acrossTime(t * last), y: BOTTOM + 20, "text-anchor": ["start", "middle", "end"][2 * t] }).textContent = t ? String(t) : "t = 0";
  }
  const [low, , high] = data.zoos[one.width].accuracy;
  draw(chart, "rect", { class: "members", x: LEFT, width: RIGHT - LEFT, y: upAccuracy(high), height: Math.max(2, upAccuracy(low) - upAccuracy(high)) });
  draw(chart, "line", { class: "chance", x1: LEFT, x2: RIGHT, y1: upAccuracy(data.chance), y2: upAccuracy(data.chance) });
  const whole = Array.from({ length: one.times }, (_, t) => t);
  const until = [...whole.filter((t) => t < state.time), state.time];
  const [lower, median, upper] = [0.25, 0.5, 0.75].map((share) => (t) => [t, quantile(at(one.accuracy, one, t), share)]);
  draw(chart, "polyline", { class: "ahead", points: line(whole.map(median)) });
  draw(chart, "polygon", { class: "middle", points: line([...until.map(lower), ...until.map(upper).reverse()]) });
  draw(chart, "polyline", { class: "own", points: line(until.map((t) => [t, at(one.accuracy, one, t)[state.network]])) });
  draw(chart, "polyline", { class: "median", points: line(until.map(median)) });
  const x = acrossTime(state.time);
  draw(chart, "line", { class: "line", x1: x, x2: x, y1: TOP, y2: BOTTOM });
  draw(chart, "circle", { class: "dot", cx: x, cy: upAccuracy(median(state.time)[1]), r: 6 });
}

function timeUnder(event) {
  const box = chart.getBoundingClientRect();
  const x = (event.clientX - box.left) * WIDE / box.width;
  moveTo((x - LEFT) / (RIGHT - LEFT) * last);
}

let held = null;  // the pointer that moves time
let began = null;  // where a finger came down: it may want to scroll

function hold(event) {
  [held, began] = [event.pointerId, null];
  chart.setPointerCapture(event.pointerId);
  pause();
  timeUnder(event);
}

function goesSideways(event) {
  const [across, down] = [Math.abs(event.clientX - began[0]), Math.abs(event.clientY - began[1])];
  return across > 8 && across > down;
}

chart.addEventListener("pointerdown", (event) => {
  if (event.pointerType === "mouse") hold(event);
  else began = [event.clientX, event.clientY];
});
chart.addEventListener("pointermove", (event) => {
  if (held === event.pointerId) timeUnder(event);
  else if (began && goesSideways(event)) hold(event);
});
for (const end of ["pointerup", "pointercancel"]) chart.addEventListener(end, () => { [held, began] = [null, null]; });
chart.addEventListener("click", (event) => { pause(); timeUnder(event); });

// -- right: the first layer, a picture for each unit -----------------------------------------------------------------

const units = find(".inside canvas");

function rgb(name) {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.fillStyle = getComputedStyle(find(`.colour.${name}`)).color;
  context.fillRect(0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data;
}
for (const name of ["positive", "negative", "nothing", "ink", "paper"]) {
  page.append(make("span", { class: `colour ${name}`, style: `color: var(--${name})`, hidden: "" }));
}

/** Numbers from -1 to 1 as pixels, between two colours and the ground. */
function pixels(values, wide, high, from, to, ground) {
  const picture = new ImageData(wide, high);
  values.forEach((value, i) => {
    const colour = value < 0 ? from : to;
    const part = Math.min(1, Math.abs(value));
    for (let c = 0; c < 3; c += 1) picture.data[4 * i + c] = ground[c] + part * (colour[c] - ground[c]);
    picture.data[4 * i + 3] = 255;
  });
  return picture;
}

function drawUnits(tensors) {
  const count = tensors[0].length / 64;
  const side = Math.ceil(Math.sqrt(count));
  units.width = units.height = 9 * side + 1;
  const context = units.getContext("2d");
  context.clearRect(0, 0, units.width, units.height);
  const largest = quantile(tensors[0].map(Math.abs), 0.995);
  const colours = ["negative", "positive", "nothing"].map(rgb);
  for (let u = 0; u < count; u += 1) {
    const values = Array.from(tensors[0].subarray(64 * u, 64 * u + 64), (value) => value / largest);
    context.putImageData(pixels(values, 8, 8, ...colours), 1 + 9 * (u % side), 1 + 9 * Math.floor(u / side));
  }
}

// -- below: what it reads --------------------------------------------------------------------------------------------

const images = numbers(data.images);
const answers = data.labels.map((label, i) => {
  const canvas = make("canvas", { width: 8, height: 8, role: "img", "aria-label": `A handwritten ${label}` });
  const bars = make("div", { class: "bars", role: "img" });
  for (let digit = 0; digit < 10; digit += 1) bars.append(make("span", {}, String(digit)));
  const said = make("p");
  find(".answers ol").append(make("li", {}, canvas, bars, said));
  return { label, image: images.subarray(64 * i, 64 * i + 64), canvas, bars, said };
});

function drawDigits() {
  const [ink, paper] = ["ink", "paper"].map(rgb);
  for (const { canvas, image } of answers) {
    canvas.getContext("2d").putImageData(pixels(Array.from(image), 8, 8, ink, ink, paper), 0, 0);
  }
}

/** Draws the bars; returns the digits that were read. */
function drawAnswers(tensors) {
  return answers.map(({ label, image, bars, said }) => {
    const shares = read(tensors, image);
    const best = shares.indexOf(Math.max(...shares));
    [...bars.children].forEach((bar, digit) => {
      bar.style.setProperty("--p", shares[digit].toFixed(3));
      bar.className = digit === label ? "true" : digit === best ? "wrong" : "";
    });
    bars.setAttribute("aria-label", `Probabilities: ${best} has ${percent(shares[best])}` + (best === label ? "" : `, ${label} has ${percent(shares[label])}`));
    said.className = best === label ? "right" : "wrong";
    said.textContent = best === label ? `reads ${best}, ${percent(shares[best])}` : `reads ${best}, but it is a ${label}`;
    return best;
  });
}

// -- everything at once ----------------------------------------------------------------------------------------------

const clock = find(".clock");
const which = find(".which input");
let speaking = 0;

function show() {
  const one = scene();
  const t = (state.time / last).toFixed(2);
  const accuracy = at(one.accuracy, one, state.time);
  const [low, median, high] = [0.25, 0.5, 0.75].map((share) => percent(quantile(accuracy, share)));
  const distance = at(one.distance, one, state.time)[state.network];
  const tensors = decode(one, state.time, state.network);
  const name = `network ${state.network + 1}`;
  page.classList.toggle("Gaussian", state.kind === "Gaussian");
  drawCloud(one);
  drawChart(one);
  drawUnits(tensors);
  const answered = drawAnswers(tensors);
  const right = answered.filter((digit, i) => digit === data.labels[i]).length;

  clock.value = state.time;
  which.value = state.network + 1;
  find(".now").textContent = `t = ${t}`;
  find(".which output").textContent = `${state.network + 1} of ${one.networks}`;
  find(".reads").textContent = `Half of the networks read between ${low} and ${high}, ${name} ${percent(accuracy[state.network])}.`;
  find(".nearest").textContent = `Its nearest member is ${distance.toFixed(2)} of the distance between members away.`;
  find(".inside h2").textContent = `First layer of ${name}`;
  find(".answers h2").textContent = `What ${name} reads`;
  const told = `At time ${t} the median network reads ${median}, ${name} ${percent(accuracy[state.network])}`;
  clock.setAttribute("aria-valuetext", `time ${t}, median accuracy ${median}`);
  which.setAttribute("aria-valuetext", `${name}, accuracy ${percent(accuracy[state.network])}`);
  cloud.setAttribute("aria-label", `First two codes of ${one.networks} networks at time ${t}, and of the members; ${name} is ${distance.toFixed(2)} of the distance between members away from the nearest one`);
  chart.setAttribute("aria-label", `Accuracy against time; at time ${t} the median is ${median}, half lie between ${low} and ${high}; members have ${percent(data.zoos[one.width].accuracy[0])} to ${percent(data.zoos[one.width].accuracy[2])}`);
  units.setAttribute("aria-label", `Weights of the ${one.width} units of the first layer of ${name} at time ${t}, an image each`);
  clearTimeout(speaking);
  speaking = setTimeout(() => { find(".status").textContent = `${told}; of five digits it reads ${right} right. `; }, playing ? 3000 : 400);
}

function tellScene() {
  find(".says").replaceChildren(make("b", {}, "Look for this. "), scene().says);
}

function moveTo(time) {
  state.time = Math.min(last, Math.max(0, time));
  show();
}

// -- time: by the slider, by keys, and by itself ---------------------------------------------------------------------

const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const SECONDS = 7;  // from noise to network
let playing = 0;
let since = 0;

function pause() {
  cancelAnimationFrame(playing);
  playing = 0;
  find(".play").textContent = state.time >= last ? "Again" : "Play";
}

function step(now) {
  const next = state.time + Math.min(now - since, 100) / 1000 * last / SECONDS;
  since = now;
  playing = requestAnimationFrame(step);
  moveTo(next);
  if (state.time >= last) pause();
}

function play() {
  if (state.time >= last) state.time = 0;
  since = performance.now();
  playing = requestAnimationFrame(step);
  find(".play").textContent = "Pause";
}

const STEPS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5, Home: -last, End: last };

find(".play").addEventListener("click", () => (playing ? pause() : play()));
clock.max = last;
clock.addEventListener("input", () => { pause(); moveTo(Number(clock.value)); });
clock.addEventListener("keydown", (event) => {
  if (!(event.key in STEPS)) return;  // a key moves by a recorded moment
  event.preventDefault();
  pause();
  moveTo(Math.round(state.time) + STEPS[event.key]);
  pause();
});
which.max = scenes[0].networks;
which.addEventListener("input", () => { state.network = Number(which.value) - 1; show(); });

// -- the other choices, light and dark -------------------------------------------------------------------------------

for (const width of widths) {
  find(".widths").append(make("label", {}, make("input", { type: "radio", name: "width", value: width }), make("span", {}, width)));
}
for (const input of document.querySelectorAll(".choices input")) {
  input.checked = state[input.name] === input.value;
  input.addEventListener("change", () => {
    state[input.name] = input.value;
    tellScene();
    show();
  });
}

const system = matchMedia("(prefers-color-scheme: dark)");
const themeButton = find(".theme");
const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

function recolour() {
  themeButton.textContent = isDark() ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", isDark() ? "Light page" : "Dark page");
  drawDigits();
  show();
}

themeButton.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", document.documentElement.dataset.theme); } catch { /* it holds for this page */ }
  recolour();
});
system.addEventListener("change", recolour);

// -- inside another page: that page says light or dark, and is told how high this one is -----------------------------

if (window !== parent) {
  page.classList.add("inside-page");
  addEventListener("message", (event) => {
    if (event.source !== parent || !["light", "dark"].includes(event.data?.theme)) return;
    document.documentElement.dataset.theme = event.data.theme;
    recolour();
    sayHeight();
  });
  const sayHeight = () => parent.postMessage({ playerHeight: Math.ceil(find("main").getBoundingClientRect().height) }, "*");
  new ResizeObserver(sayHeight).observe(find("main"));
}

// -- begin: once through time where motion is welcome, as soon as it is seen -----------------------------------------

find(".cloud .key").innerHTML = "<b>● networks</b> <i>○ members</i>";
find(".course .key").innerHTML = "<b>median, middle half</b> <i>members</i>";
find(".inside .key").textContent = "blue < 0 < red";
for (const part of document.querySelectorAll("main > [hidden], header > [hidden]")) part.hidden = false;
tellScene();
recolour();
if (!stillness.matches && !asked.has("still")) {
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    if (state.time === 0 && !playing) play();
  }, { threshold: 0.5 });
  seen.observe(find(".cloud svg"));
}
