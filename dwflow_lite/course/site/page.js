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

// -- on a phone the bar does not follow: a way back to it ------------------------------------------------------------

const up = make("button", { class: "up", type: "button", "aria-label": "To the top", hidden: "" }, "↑");
up.addEventListener("click", () => scrollTo({ top: 0 }));
document.body.append(up);
new IntersectionObserver(([bar]) => { up.hidden = bar.isIntersecting; }).observe(document.querySelector(".bar"));

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
const sheet = zoom.querySelector(".sheet");
const tellMore = () => zoom.toggleAttribute("data-more", sheet.scrollLeft + sheet.clientWidth < sheet.scrollWidth - 8);
sheet.addEventListener("scroll", tellMore);
zoom.addEventListener("click", (event) => {
  if (event.target === zoom || event.target.closest("button")) zoom.close();
});
for (const picture of document.querySelectorAll("main img:not(a img)")) {
  picture.setAttribute("role", "button");
  picture.setAttribute("tabindex", "0");
  picture.setAttribute("aria-label", `Enlarge: ${picture.alt}`);
  const enlarge = () => {
    sheet.replaceChildren(make("img", { src: picture.src, alt: picture.alt }));
    zoom.querySelector(".said").textContent = picture.alt;
    zoom.showModal();
    tellMore();
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
const HYPHENS = /[-‐‑_]/g;

/** Finds what begins with a word; if `loosely`, hyphens may stand in either, or not. */
function beginning(word, loosely) {
  const parts = (loosely ? [...word] : [word]).map((part) => part.replace(SYNTAX, "\\$&"));
  return new RegExp(`(?<![\\p{L}\\p{N}])${parts.join(`${HYPHENS.source}?`)}`, "giu");
}

function score(section, words, begins) {
  const title = `${section.title} ${section.heading}`;
  let total = section.heading.toLowerCase() === words.join(" ") ? 100 : 0;
  for (const begin of begins) {
    const found = (title.search(begin) < 0 ? 0 : 20) + Math.min(10, (section.text.match(begin) ?? []).length);
    if (!found) return 0;
    total += found;
  }
  return total;
}

/** The sections that hold the words, best first, as [points, section], and the patterns that found them. */
function hits(words, loosely) {
  const begins = words.map((word) => beginning(word, loosely));
  const asked = words.length ? sections : [];
  const found = asked.map((section) => [score(section, words, begins), section]).filter(([points]) => points > 0);
  return [found.sort(([a], [b]) => b - a), begins];
}

/** The text around the first place found, from one space to another. */
function excerpt({ text }, begin) {
  const place = text.matchAll(begin).next().value;
  const at = place?.index ?? 0;
  const after = at + (place?.[0].length ?? 0);
  const start = at > 60 ? Math.min(text.indexOf(" ", at - 60) + 1 || at, at) : 0;
  const end = at + 140 < text.length ? Math.max(text.lastIndexOf(" ", at + 140), after) : text.length;
  const marked = place ? [make("mark", {}, place[0])] : [];
  return make("small", {}, start ? "… " : "", text.slice(start, at), ...marked, text.slice(after, end), end < text.length ? " …" : "");
}

function find() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  let [found, begins] = hits(words, false);
  if (!found.length) [found, begins] = hits(words.map((word) => word.replace(HYPHENS, "")).filter(Boolean), true);
  const items = found.slice(0, 30).map(([, section]) => {
    const link = make("a", { href: root.dataset.root + section.page + section.at });
    const heading = section.heading ? `: ${section.heading}` : "";
    link.append(make("b", {}, section.title), heading, excerpt(section, begins[0]));
    link.addEventListener("click", () => search.close());
    return make("li", {}, link);
  });
  search.querySelector("ol").replaceChildren(...items);
  search.querySelector(".said").textContent = words.length ? told(found.length) : "Words of the course, of the glossary, or names of the package.";
}

function told(count) {
  if (!count) return "Nothing found. The first letters of a word are enough: permut";
  return count > 30 ? `${count} places, the best 30` : `${count} place${count > 1 ? "s" : ""}`;
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
search.querySelector("button").addEventListener("click", () => search.close());
search.querySelector("form").addEventListener("submit", (event) => {
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
