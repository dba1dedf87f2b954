// What a page does beyond being read: theme, search, contents that follow, copying, enlarging. All of it is optional.
"use strict";

const root = document.documentElement;

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// -- light and dark: the button says what it leads to --------------------------------------------------------------

const system = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.querySelector(".theme");
const players = [...document.querySelectorAll("figure.player iframe")];

function isDark() {
  return (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
}

function nameTheme() {
  themeButton.textContent = isDark() ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", isDark() ? "Light page" : "Dark page");
}

themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* it holds for this page */ }
  nameTheme();
  players.forEach(tellTheme);
});
system.addEventListener("change", nameTheme);
nameTheme();
themeButton.hidden = false;

// -- the player: it is told of light and dark, and says how high it is -----------------------------------------------

function tellTheme(player) {
  player.contentWindow.postMessage({ theme: isDark() ? "dark" : "light" }, "*");
}

system.addEventListener("change", () => players.forEach(tellTheme));
addEventListener("message", (event) => {
  const player = players.find((one) => one.contentWindow === event.source);
  if (player && event.data?.playerHeight > 0) player.style.height = `${event.data.playerHeight + 2}px`;
});
for (const player of players) {
  player.addEventListener("load", () => tellTheme(player));
  tellTheme(player);  // it may have been there first
}

// -- the contents follow: the heading last scrolled past is the current one ----------------------------------------

const linkOf = new Map();
for (const link of document.querySelectorAll(".contents a")) {
  const heading = document.getElementById(decodeURIComponent(link.hash.slice(1)));
  if (heading) linkOf.set(heading, link);
}

function follow() {
  const top = 120;  // below the bar
  let current = null;
  for (const heading of linkOf.keys()) {
    if (heading.getBoundingClientRect().top <= top) current = heading;
  }
  for (const [heading, link] of linkOf) {
    if (heading === current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  const box = document.querySelector(".contents");
  const link = linkOf.get(current);
  if (link && box.scrollHeight > box.clientHeight) {
    box.scrollTop = link.offsetTop - box.clientHeight / 2;
  }
}

if (linkOf.size) {
  const watcher = new IntersectionObserver(follow, { rootMargin: "-120px 0px 0px 0px", threshold: [0, 1] });
  for (const heading of linkOf.keys()) watcher.observe(heading);
  addEventListener("scrollend", follow);
  follow();
}
const fold = document.querySelector(".contents > details");
if (fold && !matchMedia("(min-width: 75rem)").matches) fold.open = false;

// -- copy the code of a cell ---------------------------------------------------------------------------------------

for (const block of document.querySelectorAll(".highlight")) {
  const button = make("button", { class: "copy", type: "button", "aria-label": "Copy this code" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.querySelector("pre").textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(block.querySelector("pre"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  block.prepend(button);
}

// -- what scrolls sideways can be reached by the keyboard ----------------------------------------------------------

for (const box of document.querySelectorAll("pre, .table, math[display=block]")) {
  if (box.scrollWidth > box.clientWidth) box.setAttribute("tabindex", "0");
}

// -- enlarge a figure ----------------------------------------------------------------------------------------------

const zoom = document.querySelector(".zoom");
zoom.addEventListener("click", (event) => {
  if (event.target === zoom || event.target.closest("button")) zoom.close();
});
for (const picture of document.querySelectorAll("main img:not(a img)")) {
  picture.setAttribute("role", "button");
  picture.setAttribute("tabindex", "0");
  picture.setAttribute("aria-label", `Enlarge: ${picture.alt}`);
  const enlarge = () => {
    zoom.querySelector(".sheet").replaceChildren(make("img", { src: picture.src, alt: picture.alt }));
    zoom.querySelector(".said").textContent = picture.alt;
    zoom.showModal();
  };
  picture.addEventListener("click", enlarge);
  picture.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    enlarge();
  });
}

// -- search: every word must begin a word of the section; what stands in titles counts more ------------------------

const search = document.querySelector(".search");
const input = search.querySelector("input");
const sections = globalThis.courseSections ?? [];  // of search.js, which a run writes

const SYNTAX = /[.*+?^${}()|[\]\\/]/g;  // letters that mean something in a pattern

function score(section, words) {
  const heading = section.heading.toLowerCase();
  const title = `${section.title.toLowerCase()} ${heading}`;
  const text = section.text.toLowerCase();
  let total = heading === words.join(" ") ? 100 : 0;
  for (const word of words) {
    const begins = new RegExp(`(?<![\\p{L}\\p{N}])${word.replace(SYNTAX, "\\$&")}`, "gu");
    const found = (title.search(begins) < 0 ? 0 : 20) + Math.min(10, (text.match(begins) ?? []).length);
    if (!found) return 0;
    total += found;
  }
  return total;
}

function excerpt(section, word) {
  const at = Math.max(0, section.text.toLowerCase().indexOf(word));
  const start = Math.max(0, at - 60);
  const piece = section.text.slice(start, at + 140);
  const small = make("small", {}, start ? "… " : "");
  const inside = piece.toLowerCase().indexOf(word);
  if (inside < 0) small.append(piece);
  else small.append(piece.slice(0, inside), make("mark", {}, piece.slice(inside, inside + word.length)), piece.slice(inside + word.length));
  return small;
}

function find() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length
    ? sections.map((section) => [score(section, words), section]).filter(([points]) => points > 0)
    : [];
  found.sort(([a], [b]) => b - a);
  const items = found.slice(0, 30).map(([, section]) => {
    const link = make("a", { href: root.dataset.root + section.page + section.at });
    const heading = section.heading ? `: ${section.heading}` : "";
    link.append(make("b", {}, section.title), heading, excerpt(section, words[0]));
    link.addEventListener("click", () => search.close());
    return make("li", {}, link);
  });
  search.querySelector("ol").replaceChildren(...items);
  const count = found.length > 30 ? `${found.length} places, the best 30` : `${found.length} places`;
  search.querySelector(".said").textContent = words.length ? count : "Words of the course, of the glossary, or names of the package.";
}

function openSearch() {
  search.showModal();
  input.select();
  find();
}

const searchButton = document.querySelector(".find");
searchButton.addEventListener("click", openSearch);
searchButton.hidden = sections.length === 0;
input.addEventListener("input", find);
search.addEventListener("click", (event) => { if (event.target === search) search.close(); });
search.querySelector("form").addEventListener("submit", (event) => {
  if (event.submitter?.value === "close") return;  // the dialog closes itself
  event.preventDefault();
  search.querySelector("li a")?.click();
});
search.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const stops = [input, ...search.querySelectorAll("li a")];
  const next = stops.indexOf(document.activeElement) + step;
  stops[Math.min(Math.max(next, 0), stops.length - 1)].focus();
});
addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, dialog");
  const asked = event.key === "/" || (event.key === "k" && (event.ctrlKey || event.metaKey));
  if (!asked || typing || searchButton.hidden) return;
  event.preventDefault();
  openSearch();
});
