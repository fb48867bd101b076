// One WebSocket, told about through `report`: every state the browser lets us see, every message
// with its round trip. It draws nothing, and a connection that has closed is never used again.

import { kindOf, sizeOf } from "./bytes.js";

const STATES = ["Connecting", "Open", "Closing", "Closed"]; // by readyState

// Throws what `new WebSocket` throws; report is {state, opened, received, closed}.
export function connect(url, protocols, report) {
  const socket = new WebSocket(url, protocols);
  socket.binaryType = "arraybuffer"; // bytes to show; a Blob would have to be read first
  const trips = createRoundTrips();
  let opened = false;
  const tellState = () => report.state(STATES[socket.readyState]);

  socket.onopen = () => {
    opened = true;
    tellState();
    report.opened(socket);
  };
  socket.onmessage = ({ data }) => report.received(data, trips.answered(data));
  socket.onclose = ({ code, reason }) => {
    tellState();
    report.closed({ code, reason, opened });
  };
  tellState();

  return {
    // False if it is too late: the server's close is known to the browser before its event is.
    send(data) {
      if (socket.readyState !== WebSocket.OPEN) {
        tellState();
        return false;
      }
      trips.sent(data);
      socket.send(data);
      return true;
    },
    close(code, reason) {
      socket.close(code, reason);
      tellState();
    },
  };
}

// An echo answers in order with the same kind and size. What was sent before the message that is
// answered gets no answer any more (a command, say); what matches nothing is no echo.
function createRoundTrips() {
  const unanswered = []; // bounded by what one user sends over one connection
  return {
    sent(data) {
      unanswered.push({ kind: kindOf(data), size: sizeOf(data), at: performance.now() });
    },
    answered(data) {
      const now = performance.now();
      const [kind, size] = [kindOf(data), sizeOf(data)];
      const index = unanswered.findIndex((it) => it.kind === kind && it.size === size);
      return index < 0 ? undefined : now - unanswered.splice(0, index + 1).at(-1).at;
    },
  };
}
