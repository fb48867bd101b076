// The three ways a hub's messages can travel, in the order in which they are tried. `open` gives
// a function that sends text, in order, or fails with an Error in words. It tells of what it
// received and that it ended, maybe more than once; the signal ends it at once.

import { describeClose } from "./close-codes.js";

const POLL_LIMIT = 100_000; // ms; the server answers a poll within 90 s
const POST_LIMIT = 30_000;

export const TRANSPORTS = [
  { name: "WebSockets", label: "WebSockets", open: openWebSocket },
  { name: "ServerSentEvents", label: "server-sent events", open: openEventStream },
  { name: "LongPolling", label: "long polling", open: openLongPolling, keepsAlive: true },
];

function openWebSocket(url, { signal, received, ended }) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url.replace(/^http/, "ws"));
    signal.addEventListener("abort", () => socket.close());
    let open = false;
    socket.onopen = () => {
      open = true;
      resolve((text) => socket.send(text));
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") received(data);
      else ended("bytes came where text was due");
    };
    socket.onclose = ({ code }) => {
      if (open) ended(`the WebSocket closed with ${describeClose(code)}`);
      else reject(new Error("the WebSocket was refused"));
    };
  });
}

function openEventStream(url, { signal, received, ended }) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(url);
    let said; // what we last said has left when this is done
    signal.addEventListener("abort", async () => {
      reject(signal.reason);
      await said; // who leaves the stream is forgotten, and with it what comes later
      source.close();
    });
    let open = false;
    source.onopen = () => {
      open = true;
      const post = createPost(url, ended);
      resolve((text) => (said = post(text)));
    };
    source.onmessage = ({ data }) => received(data);
    source.onerror = () => {
      source.close(); // or it would connect again by itself
      if (open) ended("the event stream ended");
      else reject(new Error("the event stream was refused"));
    };
  });
}

async function openLongPolling(url, { signal, received, ended }) {
  async function poll() {
    const { status, text } = await request(url, "GET", undefined, limited(signal, POLL_LIMIT));
    if (status === 204) throw new Error("the server ended the connection");
    if (text) received(text);
  }
  async function pollOn() {
    try {
      while (!signal.aborted) await poll();
    } catch (error) {
      ended(error.message);
    }
  }
  await poll(); // answered at once: the connection is open
  pollOn();
  return createPost(url, ended);
}

// One POST after the other; what is sent meanwhile goes with the next. Not ended by the signal: the
// last words of a connection leave when it is over.
function createPost(url, ended) {
  let waiting = "";
  let posting = null; // a promise
  async function post() {
    try {
      while (waiting) {
        const body = waiting;
        waiting = "";
        await request(url, "POST", body);
      }
    } catch (error) {
      ended(error.message);
    }
    posting = null;
  }
  return (text) => {
    waiting += text;
    return (posting ??= post());
  };
}

// {status, text} of an answer that is a success; an Error in words for everything else.
export async function request(url, method, body, signal = AbortSignal.timeout(POST_LIMIT)) {
  let response, text;
  try {
    response = await fetch(url, { method, body, signal, cache: "no-store" });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const what = error.name === "TimeoutError" ? "did not answer in time" : "cannot be reached";
    throw new Error(`the server ${what}`);
  }
  const { ok, status } = response;
  if (ok) return { status, text };
  const reason = /^[^<\n]{1,100}$/.test(text.trim()) ? `: ${text.trim()}` : ""; // never a page
  throw Object.assign(new Error(`the server answered ${status}${reason}`), { status });
}

export const limited = (signal, milliseconds) =>
  AbortSignal.any([signal, AbortSignal.timeout(milliseconds)]);
