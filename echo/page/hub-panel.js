// The panel of the hub: joins its forms, its client and its log. What a call gives is told beside
// its form; the log shows every message as it travels, and what becomes of the connection. What may
// be pressed follows from the connection's state, in `showState` and nowhere else.

import { formatNumber, preview } from "./bytes.js";
import { createForms } from "./forms.js";
import { HubClient } from "./hub-client.js";
import { Type } from "./hub-protocol.js";
import { parseConnectionId, parseCount, parseItems, parseName } from "./inputs.js";
import { createLog } from "./log.js";
import { createQuestions } from "./questions.js";
import { createStateView } from "./state.js";

const UPLOAD_PAUSE = 100; // ms between two items at most
const UPLOAD_TIME = 2000; // ms for all of them, about

export function createHubPanel(root) {
  const find = (selector) => root.querySelector(selector);
  const { on, parse } = createForms(root);
  const log = createLog(find(".log"));
  const state = createStateView(find(".state"));
  const questions = createQuestions(find("form.answer"));
  const begun = new Map(); // when a call began that has no answer yet, by its id
  const groups = new Set(); // joined; a new connection has to join them again
  let current = "Disconnected";
  let heard = 0;
  let countdown = null;

  const hub = new HubClient(new URL("/hub", location).href, {
    state: showState,
    event: log.event,
    opened({ id, transport }) {
      find(".agreed").textContent = `over ${transport}`;
      find("#hub-id").value = id;
      log.event(`Connected over ${transport}. Connection id: ${id}`);
      for (const group of groups) tell("form.group", "Join", hub.invoke("Join", group));
    },
    sent(text, { type, invocationId }) {
      const isCall = type === Type.INVOCATION || type === Type.STREAM_INVOCATION;
      if (isCall) begun.set(invocationId, performance.now());
      log.message("Client", "Server", text);
    },
    received(text, { type, invocationId }) {
      const answers = type === Type.COMPLETION && begun.has(invocationId);
      const trip = answers ? performance.now() - begun.get(invocationId) : undefined;
      if (answers) begun.delete(invocationId);
      log.message("Server", "Client", text, trip);
    },
    ended(words, wanted) {
      groups.clear();
      log.event(words);
      if (!wanted) find("#transport-error").textContent = words;
    },
  });

  hub.on("Message", (text) => {
    heard += 1;
    find("#heard").textContent = `${formatNumber(heard)}: ${shorten(text)}`;
  });
  hub.on("Answer", (question) => questions.ask(question));

  function showState(name) {
    const focused = document.activeElement;
    const chosen = current === "Connecting" && name === "Connected"; // not by a reconnection
    current = name;
    state.show(name);
    find("#hub-connect").textContent = name === "Disconnected" ? "Connect" : "Disconnect";
    find("#transport").disabled = name !== "Disconnected";
    for (const button of root.querySelectorAll("form.calls button")) {
      button.disabled = name !== "Connected";
    }
    showCountdown(null);
    if (name !== "Connected") {
      begun.clear();
      questions.drop("The connection was lost.");
      find(".agreed").textContent = "";
      find("#hub-id").value = "";
    }
    if (chosen) find("#words").focus();
    else if (focused.disabled) find("#hub-connect").focus({ preventScroll: true });
  }

  function showCountdown(stream) {
    const focused = document.activeElement;
    countdown = stream;
    find("#cancel").disabled = !stream;
    if (!stream && focused === find("#cancel")) find("#countdown").focus();
  }

  // Tells in the form what became of a call; gives whether it succeeded.
  async function tell(form, name, result) {
    const output = find(`${form} output`);
    output.textContent = `${name}: …`;
    let words;
    try {
      const value = await result;
      words = value === null || value === undefined ? "done" : shorten(value);
      return true;
    } catch (error) {
      words = error.message;
      return false;
    } finally {
      output.textContent = `${name}: ${words}`;
    }
  }

  on("form.connect", () => {
    find("#transport-error").textContent = "";
    if (current === "Disconnected") hub.open(find("#transport").value);
    else hub.close();
  });

  on("form.words", ({ value: method }) => {
    const group = method === "BroadcastTo" ? [parse(find("#group"), parseName)] : [];
    tell("form.words", method, hub.invoke(method, ...group, find("#words").value));
  });

  on("form.group", async ({ value: method }) => {
    const group = parse(find("#group"), parseName);
    const done = await tell("form.group", method, hub.invoke(method, group));
    if (done) groups[method === "Join" ? "add" : "delete"](group);
  });

  on("form.countdown", async () => {
    const from = parse(find("#count"), parseCount);
    countdown?.cancel();
    const stream = hub.stream("Countdown", [from], (item) => {
      find("form.countdown output").textContent = `Countdown: ${item}`;
    });
    showCountdown(stream);
    await tell("form.countdown", "Countdown", stream.result);
    if (countdown === stream) showCountdown(null);
  });
  find("#cancel").addEventListener("click", () => countdown.cancel());

  on("form.collect", () => {
    const items = parse(find("#items"), parseItems);
    tell("form.collect", "Collect", hub.upload("Collect", slowly(items)));
  });

  on("form.ask", () => {
    const id = parse(find("#asked"), parseConnectionId);
    tell("form.ask", "Ask", hub.invoke("Ask", id, find("#ask").value));
  });

  showState(current);
}

// The items one by one, so that one sees them go.
async function* slowly(items) {
  const pause = Math.min(UPLOAD_PAUSE, UPLOAD_TIME / items.length);
  for (const item of items) {
    yield item;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

// A value as text, however large it is.
function shorten(value) {
  const { text, more } = preview(typeof value === "string" ? value : JSON.stringify(value));
  return more ? `${text}… ${more}` : text;
}
