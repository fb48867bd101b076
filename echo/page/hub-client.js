// A hub as its user sees it: calls and their results, streams both ways, methods that the hub may
// call here, and one link after the other. What was under way when a link is lost fails; whoever
// has closed, or was sent away for good, does not come back.

import { openLink } from "./hub-link.js";
import { Type } from "./hub-protocol.js";

const RETRY_DELAYS = [0, 2, 10, 30]; // s
const BRIEF = 1000; // ms: a link that lived less is not replaced at once

export class HubClient {
  #url;
  #report;
  #methods = new Map(); // by name in lower case
  #calls = new Map(); // without an answer yet, by id
  #lastId = 0;
  #link = null;
  #since = 0; // when it opened
  #session = null; // an AbortController, from open() to the end

  // The report has state(name), event(text), opened({id, transport}), sent(text, message),
  // received(text, message), and ended(words, wanted), where wanted is whether close() was the
  // reason. States are Connecting, Connected, Reconnecting and Disconnected.
  constructor(url, report) {
    this.#url = url;
    this.#report = report;
  }

  // The hub may call this by its name, in any case; what it returns is the result.
  on(name, method) {
    this.#methods.set(name.toLowerCase(), method);
  }

  // The name of a transport, or "" to try all.
  async open(transport) {
    this.#session = new AbortController();
    const { signal } = this.#session;
    this.#report.state("Connecting");
    try {
      await this.#connect(transport, signal);
    } catch (error) {
      if (!signal.aborted) this.#end(`Could not connect: ${error.message}.`);
    }
  }

  close() {
    this.#link?.close();
    this.#end("Disconnected.", true);
  }

  invoke(target, ...args) {
    return this.#call(Type.INVOCATION, target, args).result;
  }

  // Calls item() with each item; gives {result, cancel}. The result comes after the last item.
  stream(target, args, item) {
    const { id, result } = this.#call(Type.STREAM_INVOCATION, target, args, { item });
    const cancel = () => {
      const call = this.#take(id);
      if (!call) return;
      this.#link.send({ type: Type.CANCEL_INVOCATION, invocationId: id });
      call.reject(new Error("cancelled"));
    };
    return { result, cancel };
  }

  // Sends the items, which may come in their own time, until they or the server's interest end.
  upload(target, items) {
    const stream = this.#newId();
    const { id, result } = this.#call(Type.INVOCATION, target, [], { streamIds: [stream] });
    this.#send(stream, items, () => this.#calls.has(id));
    return result;
  }

  async #send(stream, items, wanted) {
    const link = this.#link;
    const end = { type: Type.COMPLETION, invocationId: stream };
    try {
      for await (const item of items) {
        if (!wanted()) return;
        link.send({ type: Type.STREAM_ITEM, invocationId: stream, item });
      }
    } catch (error) {
      end.error = error.message;
    }
    if (wanted()) link.send(end);
  }

  #call(type, target, args, { item, streamIds } = {}) {
    if (!this.#link) throw new Error("There is no connection.");
    const invocationId = this.#newId();
    const { promise, resolve, reject } = Promise.withResolvers();
    this.#calls.set(invocationId, { item, resolve, reject });
    this.#link.send({ type, invocationId, target, arguments: args, streamIds });
    return { id: invocationId, result: promise };
  }

  #newId() {
    this.#lastId += 1;
    return String(this.#lastId);
  }

  // The call of that id, no longer waiting; undefined if it has its answer already.
  #take(id) {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    return call;
  }

  async #connect(transport, signal) {
    const { event, sent, received } = this.#report;
    await openLink(this.#url, transport, {
      event,
      sent,
      received,
      opened: (link) => this.#begin(link),
      message: (message) => this.#receive(message, transport),
      ended: (why) => this.#lost(why, transport),
    }, signal);
  }

  #begin(link) {
    this.#link = link;
    this.#since = performance.now();
    this.#report.state("Connected");
    this.#report.opened(link);
  }

  #receive(message, transport) {
    switch (message.type) {
      case Type.INVOCATION:
        return this.#answer(message, this.#link);
      case Type.STREAM_ITEM:
        return this.#calls.get(message.invocationId)?.item?.(message.item);
      case Type.COMPLETION: {
        const call = this.#take(message.invocationId);
        if (message.error === undefined) call?.resolve(message.result);
        else call?.reject(new Error(message.error));
        return;
      }
      case Type.CLOSE:
        this.#link.drop();
        if (message.allowReconnect) this.#lost("the server closed it for now", transport);
        else this.#end(`Closed by the server: ${message.error ?? "no reason given"}.`);
    }
  }

  async #answer({ target, arguments: args, invocationId }, link) {
    const answer = { type: Type.COMPLETION, invocationId };
    try {
      const method = this.#methods.get(target.toLowerCase());
      if (!method && invocationId) throw new Error("Client didn't provide a result.");
      answer.result = (await method?.(...args)) ?? null;
    } catch (error) {
      answer.error = error.message;
    }
    if (invocationId) link.send(answer);
  }

  async #lost(why, transport) {
    const { signal } = this.#session;
    const brief = performance.now() - this.#since < BRIEF; // or the two would go round in circles
    this.#release();
    this.#report.state("Reconnecting");
    this.#report.event(`Connection lost: ${why}.`);
    for (const delay of brief ? RETRY_DELAYS.slice(1) : RETRY_DELAYS) {
      this.#report.event(delay ? `Reconnecting in ${delay} s.` : "Reconnecting at once.");
      try {
        await sleep(delay, signal);
        return await this.#connect(transport, signal);
      } catch (error) {
        if (signal.aborted) return;
        this.#report.event(`Could not connect: ${error.message}.`);
      }
    }
    this.#end("Gave up reconnecting.");
  }

  #end(words, wanted = false) {
    if (!this.#session) return;
    this.#session.abort();
    this.#session = null;
    this.#release();
    this.#report.state("Disconnected");
    this.#report.ended(words, wanted);
  }

  #release() {
    this.#link = null;
    for (const { reject } of this.#calls.values()) reject(new Error("The connection was lost."));
    this.#calls.clear();
  }
}

function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
