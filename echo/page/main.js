// Composes the page: each panel gets its own part of the document and knows no other panel. The
// URL's fragment says which one is shown; the others keep their connections.

import { createHubPanel } from "./hub-panel.js";
import { createSocketPanel } from "./socket-panel.js";

const links = document.querySelectorAll("nav a");

function show() {
  const wanted = Array.from(links).find((link) => link.hash === location.hash) ?? links[0];
  if (wanted.hash === "#hub-panel" && !document.querySelector("#hub-panel")) openHubPanel();
  for (const link of links) {
    link.toggleAttribute("aria-current", false);
    const panel = document.querySelector(link.hash);
    if (panel) panel.hidden = link !== wanted;
  }
  wanted.setAttribute("aria-current", "page");
}

function openHubPanel() {
  const template = document.querySelector("#hub-template");
  document.querySelector("main").append(template.content.cloneNode(true));
  createHubPanel(document.querySelector("#hub-panel"));
}

createSocketPanel(document.querySelector("#socket-panel"));
addEventListener("hashchange", show);
show();
