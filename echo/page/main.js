// Composes the page: each panel gets its own part of the document and knows no other panel.

import { createSocketPanel } from "./socket-panel.js";

createSocketPanel(document.querySelector("#socket-panel"));
