// Keeps an open page as it is in the journal: the server sends a section whenever it has changed.
"use strict";

const state = document.getElementById("live");
const source = document.body.dataset.live;

function say(text, kind) {
  state.textContent = text;
  state.className = kind;
}

function replace(name, html) {
  const section = document.getElementById(name);
  if (!section) return;
  // Whoever has moved to a link by the keyboard, or scrolled a table, stays there.
  const focused = section.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const scrolled = [...section.querySelectorAll(".scroll")].map((table) => table.scrollLeft);
  const made = document.createElement("template");
  made.innerHTML = html;
  section.replaceChildren(made.content);
  section.querySelectorAll(".scroll").forEach((table, place) => { table.scrollLeft = scrolled[place] ?? 0; });
  if (focused === null) return;
  for (const link of section.querySelectorAll("a")) {
    if (link.getAttribute("href") === focused) link.focus({ preventScroll: true });
  }
}

if (source) {
  const events = new EventSource(source);
  say("connecting", "");
  events.onopen = () => say("live", "on");
  events.onerror = () => say("not connected; trying again", "off");
  events.onmessage = (event) => {
    for (const [name, html] of Object.entries(JSON.parse(event.data))) replace(name, html);
  };
}
