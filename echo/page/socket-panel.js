// The panel of one plain WebSocket: joins its controls, its connection and its log. What may be
// pressed follows from the connection's state alone, in `showState` and nowhere else.

import { describeClose } from "./close-codes.js";
import { connect } from "./connection.js";
import { createForms } from "./forms.js";
import { InputError, parseCloseCode, parseHex, parseProtocols, parseReason, parseUrl }
  from "./inputs.js";
import { createLog } from "./log.js";
import { createStateView } from "./state.js";

const HINTS = {
  text: "Enter sends, Shift+Enter starts a new line.",
  binary: "Hex digits in pairs, as in 48 65 6c 6c 6f. Enter sends.",
};

export function createSocketPanel(root) {
  const find = (selector) => root.querySelector(selector);
  const url = find("#url");
  const message = find("#message");
  const { on, parse, complain } = createForms(root);
  const log = createLog(find(".log"));
  const state = createStateView(find(".state"));
  let connection = null;

  function showState(name) {
    state.show(name);
    const idle = name === "Closed";
    find("#connect").disabled = !idle;
    find("#close").disabled = name !== "Connecting" && name !== "Open";
    for (const button of root.querySelectorAll("#send, [data-send]")) {
      button.disabled = name !== "Open";
    }
    // A button that is disabled under the user's finger drops the focus; give it a place to go.
    if (idle && (document.activeElement === document.body || document.activeElement.disabled)) {
      find("#connect").focus({ preventScroll: true });
    }
  }

  const report = {
    state: showState,
    opened({ protocol, extensions }) {
      find(".agreed").textContent = `Subprotocol: ${protocol || "none"}`;
      log.event(`Connection opened. Subprotocol: ${protocol || "none"}. ` +
        `Extensions: ${extensions || "none"}.`);
      message.focus();
      message.select();
    },
    received: (data, roundTrip) => log.message("Server", "Client", data, roundTrip),
    closed({ code, reason, opened }) {
      connection = null;
      find(".agreed").textContent = "";
      log.event(`${opened ? "Connection closed" : "Could not connect"}. ` +
        `Code: ${describeClose(code)}. Reason: ${reason || "none"}`);
    },
  };

  function send(data) {
    if (connection?.send(data)) log.message("Client", "Server", data);
  }

  on("form.connect", () => {
    const target = parse(url, parseUrl);
    const protocols = parse(find("#protocols"), parseProtocols);
    try {
      connection = connect(target, protocols, report);
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      // What only the browser knows, such as ws: being refused to a page that came over https:.
      throw Object.assign(new InputError(error.message), { field: url });
    }
  });

  on("form.send", () => {
    send(kind() === "binary" ? parse(message, parseHex) : message.value);
    message.focus();
    message.select();
  });

  on("form.close", () => {
    const code = parse(find("#code"), parseCloseCode);
    const reason = parse(find("#reason"), (text) => parseReason(text, code));
    connection?.close(code, reason);
  });

  const kind = () => find("[name=kind]:checked").value;

  message.addEventListener("keydown", (event) => {
    // While an input method composes a word, Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!find("#send").disabled) find("form.send").requestSubmit();
  });

  for (const radio of root.querySelectorAll("[name=kind]")) {
    radio.addEventListener("change", () => {
      find("#message-hint").textContent = HINTS[kind()];
      complain(message, "");
    });
  }

  for (const button of root.querySelectorAll("[data-send]")) {
    button.addEventListener("click", () => send(button.dataset.send));
  }

  url.value = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
}
