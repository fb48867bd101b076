// One connection to a hub, from its negotiation to its end: the first transport that works, the
// handshake, and the keep-alive of both sides. It knows messages, but not what they are about, and
// it ends once: `tell.ended(why)`, unless its user ended it.

import { createReader, encode, HANDSHAKE, Type } from "./hub-protocol.js";
import { limited, request, TRANSPORTS } from "./hub-transports.js";

const OPEN_LIMIT = 10_000; // ms: for negotiation, and for a transport to open
const HANDSHAKE_LIMIT = 15_000;
const PING_INTERVAL = 15_000; // the longest that we are silent
const SILENCE_LIMIT = 30_000; // the longest that the server may be silent
const NO_HUB = [404, 405, 501]; // how those answer who do not know the path, or the POST

// Tries the transport of that name, or with "" all that the server offers; fails with an Error in
// words if none works. `tell` has event(text), opened(link), message(message), ended(why), and for
// whoever wants to watch sent(text, message) and received(text, message).
export async function openLink(url, name, tell, signal) {
  let failure = new Error("the server offers no transport that this page knows");
  for (const transport of TRANSPORTS.filter((each) => !name || each.name === name)) {
    const offer = await negotiate(url, signal); // anew: a token may be used up
    if (!offer.transports.includes(transport.name)) {
      failure = new Error(`the server does not offer ${transport.label}`);
      tell.event(`The server does not offer ${transport.label}.`);
      continue;
    }
    tell.event(`Opening ${transport.label}.`);
    try {
      const target = `${url}?id=${encodeURIComponent(offer.token)}`;
      return await new Link(transport, offer.id, tell).open(target, signal);
    } catch (error) {
      signal.throwIfAborted();
      failure = error;
      tell.event(`No connection over ${transport.label}: ${error.message}.`);
    }
  }
  throw failure;
}

async function negotiate(url, signal) {
  const target = `${url}/negotiate?negotiateVersion=1`;
  let answer = null;
  try {
    const { text } = await request(target, "POST", undefined, limited(signal, OPEN_LIMIT));
    answer = JSON.parse(text);
  } catch (error) {
    const foreign = error instanceof SyntaxError || NO_HUB.includes(error.status);
    if (!foreign) throw error;
  }
  if (answer?.error) throw new Error(answer.error);
  if (answer?.url) throw new Error("the server sends clients elsewhere, and this page stays");
  if (!answer?.availableTransports) {
    throw new Error(`this server has no hub at ${new URL(url).pathname}`);
  }
  return {
    id: answer.connectionId,
    token: answer.connectionToken ?? answer.connectionId,
    transports: answer.availableTransports.map((each) => each.transport),
  };
}

class Link {
  #transport;
  #tell;
  #carry = null; // sends text
  #ending = new AbortController();
  #read = createReader();
  #handshake = Promise.withResolvers();
  #open = false; // whether the handshake is done
  #lastSent = 0;
  #deadlines = {}; // timers by what they are for

  constructor(transport, id, tell) {
    this.id = id;
    this.transport = transport.label;
    this.#transport = transport;
    this.#tell = tell;
  }

  async open(url, signal) {
    const ending = { signal: this.#ending.signal };
    signal.addEventListener("abort", () => this.#stop(signal.reason), ending);
    this.#limit("opening", OPEN_LIMIT, () => this.#end("it did not open in time"));
    try {
      const opening = this.#transport.open(url, {
        ...ending,
        received: (data) => this.#received(data),
        ended: (why) => this.#end(why),
      });
      this.#carry = await Promise.race([opening, this.#handshake.promise]);
      this.#limit("opening", HANDSHAKE_LIMIT, () => this.#end("the handshake was not answered"));
      this.#carry(HANDSHAKE);
      await this.#handshake.promise;
    } catch (error) {
      this.#stop(error);
      throw error;
    }
  }

  // A link that is over drops what it is given.
  send(message) {
    if (this.#ending.signal.aborted) return;
    const text = encode(message);
    this.#carry(text);
    if (message.type !== Type.PING) this.#tell.sent(text.slice(0, -1), message);
    this.#lastSent = performance.now();
    this.#pingLater();
  }

  // Says goodbye. `tell` hears no more, here and in drop().
  close() {
    this.send({ type: Type.CLOSE });
    this.#stop();
  }

  drop() {
    this.#stop();
  }

  #received(data) {
    try {
      for (const { text, message } of this.#read(data)) {
        if (this.#ending.signal.aborted) return;
        if (message.type !== Type.PING) this.#tell.received(text, message);
        if (this.#open) this.#tell.message(message);
        else this.#begin(message.error);
      }
    } catch (error) {
      this.#end(error.message);
    }
    if (this.#open) this.#heard();
  }

  #begin(error) {
    if (error) throw new Error(error);
    this.#open = true;
    clearTimeout(this.#deadlines.opening);
    this.#handshake.resolve();
    this.#lastSent = performance.now();
    this.#pingLater();
    this.#tell.opened(this);
  }

  #heard() {
    if (this.#transport.keepsAlive || this.#ending.signal.aborted) return;
    this.#limit("silence", SILENCE_LIMIT, () => this.#end("the server was silent for 30 s"));
    // The timers of a tab in the background are slow; what the server sends is on time.
    if (performance.now() - this.#lastSent >= PING_INTERVAL) this.send({ type: Type.PING });
  }

  #pingLater() {
    if (this.#transport.keepsAlive) return;
    this.#limit("ping", PING_INTERVAL, () => this.send({ type: Type.PING }));
  }

  #limit(what, milliseconds, act) {
    clearTimeout(this.#deadlines[what]);
    this.#deadlines[what] = setTimeout(act, milliseconds);
  }

  #end(why) {
    if (this.#ending.signal.aborted) return;
    this.#stop(new Error(why));
    if (this.#open) this.#tell.ended(why);
  }

  #stop(reason) {
    this.#handshake.reject(reason); // first: a transport that is ended fails for no reason
    this.#ending.abort();
    Object.values(this.#deadlines).forEach(clearTimeout);
  }
}
