// The table of what happened. It keeps the newest ROWS rows and counts the others; rows are drawn
// once per frame, so a flood of messages costs frames and not freezes. All that comes from outside
// enters the document as textContent.

import { formatNumber, kindOf, preview, sizeOf } from "./bytes.js";

const ROWS = 1000;
const NEAR_THE_END = 40; // pixels: who reads there wants to follow

export function createLog(root) {
  root.append(document.querySelector("#log-template").content.cloneNode(true));
  const body = root.querySelector("tbody");
  const count = root.querySelector(".count");
  const scroller = root.querySelector(".scroll");
  let waiting = []; // entries for the next frame; a hidden tab has no frames, hence the bound
  let dropped = 0;
  let frame = 0;

  function add(entry) {
    waiting.push({ time: clock(), ...entry });
    if (waiting.length > ROWS) {
      waiting.shift();
      dropped += 1;
    }
    frame ||= requestAnimationFrame(draw);
  }

  function draw() {
    frame = 0;
    const { scrollHeight, scrollTop, clientHeight } = scroller;
    const following = scrollHeight - scrollTop - clientHeight < NEAR_THE_END;
    for (let excess = body.rows.length + waiting.length - ROWS; excess > 0; excess -= 1) {
      body.firstElementChild.remove();
      dropped += 1;
    }
    body.append(...waiting.map(createRow));
    waiting = [];
    describe();
    if (following) scroller.scrollTop = scroller.scrollHeight;
  }

  function describe() {
    const rows = body.rows.length;
    const noun = rows === 1 ? "row" : "rows";
    count.textContent = dropped
      ? `newest ${formatNumber(rows)} rows, ${formatNumber(dropped)} older dropped`
      : `${formatNumber(rows)} ${noun}`;
  }

  root.querySelector(".clear").addEventListener("click", () => {
    body.replaceChildren();
    waiting = [];
    dropped = 0;
    describe();
  });
  describe();

  return {
    event: (text) => add({ text }),
    message: (from, to, data, roundTrip) => add({
      from, to, roundTrip, kind: kindOf(data), size: sizeOf(data), ...preview(data),
    }),
  };
}

function createRow({ time, from, to, kind, text, more, size, roundTrip }) {
  const row = document.createElement("tr");
  row.setAttribute("role", "row");
  row.append(cell("time", time));
  if (!from) {
    row.className = "event";
    const data = cell("data", text);
    data.colSpan = 5;
    row.append(data);
    return row;
  }
  row.className = from.toLowerCase();
  row.append(
    cell("from", from),
    cell("to", to),
    dataCell(kind, text, more),
    cell("size", `${formatNumber(size)} B`),
    cell("trip", roundTrip === undefined ? "" : `${roundTrip.toFixed(1)} ms`),
  );
  return row;
}

function dataCell(kind, text, more) {
  const data = cell("data", "");
  const content = element("div", `content ${kind}`, text);
  if (kind === "binary") data.append(element("span", "kind", "hex"));
  if (text === "") content.append(element("i", "", "empty"));
  data.append(content);
  if (more) data.append(element("span", "more", `… ${more}`));
  return data;
}

function cell(className, text) {
  const node = element("td", className, text);
  node.setAttribute("role", "cell");
  return node;
}

function element(name, className, text) {
  const node = document.createElement(name);
  node.className = className;
  node.textContent = text;
  return node;
}

function clock() {
  const now = new Date();
  return `${now.toTimeString().slice(0, 8)}.${String(now.getMilliseconds()).padStart(3, "0")}`;
}
