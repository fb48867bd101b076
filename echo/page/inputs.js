// What the user typed becomes a value, or an InputError whose message is a sentence for them.
// The rules are the browser's own, checked before it because it would only throw.

import { sizeOf } from "./bytes.js";

export class InputError extends Error {}

const REASON_LIMIT = 123; // bytes: a control frame's 125, less two for the code
const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/; // RFC 9110

export function parseUrl(text) {
  const url = URL.parse(text.trim());
  if (!url) throw new InputError("This is not a complete URL, such as ws://host/path.");
  if (url.protocol !== "ws:" && url.protocol !== "wss:") {
    throw new InputError(`A WebSocket URL begins with ws: or wss:, not ${url.protocol}`);
  }
  if (url.hash) throw new InputError("A WebSocket URL has no #fragment.");
  return url.href;
}

export function parseProtocols(text) {
  const names = text.split(",").map((name) => name.trim()).filter(Boolean);
  for (const name of names) {
    if (!TOKEN.test(name)) {
      throw new InputError(`“${name}” is no subprotocol: letters, digits and !#$%&'*+-.^_\`|~ only.`);
    }
  }
  if (new Set(names).size < names.length) throw new InputError("Name each subprotocol once.");
  return names;
}

export function parseHex(text) {
  const groups = text.split(/\s+/);
  const wrong = groups.find((group) => group.length % 2 || /[^\da-f]/i.test(group));
  if (wrong !== undefined) {
    throw new InputError(`“${shorten(wrong)}” is not hex: two digits (0–9, a–f) make a byte.`);
  }
  const digits = groups.join("");
  const bytes = new Uint8Array(digits.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = parseInt(digits.slice(2 * i, 2 * i + 2), 16);
  return bytes;
}

// Without a code the close frame is empty; the other side then sees 1005.
export function parseCloseCode(text) {
  if (text.trim() === "") return undefined;
  const code = /^\d+$/.test(text.trim()) ? Number(text) : NaN;
  if (code === 1000 || (code >= 3000 && code <= 4999)) return code;
  throw new InputError("A page may close with 1000, with 3000 to 4999, or with no code.");
}

export function parseReason(text, code) {
  if (text === "") return undefined;
  if (code === undefined) throw new InputError("A reason needs a code before it.");
  const size = sizeOf(text);
  if (size > REASON_LIMIT) {
    throw new InputError(`The reason has ${size} bytes; a close frame holds ${REASON_LIMIT}.`);
  }
  return text;
}

// For the calls of a hub, with the bounds that the hub has itself.

export function parseName(text) {
  const name = text.trim();
  if (!name) throw new InputError("Give it a name.");
  if (name.length > 64) throw new InputError("A name has at most 64 characters.");
  return name;
}

export function parseCount(text) {
  if (/^\d{1,4}$/.test(text.trim()) && Number(text) <= 1000) return Number(text);
  throw new InputError("A whole number from 0 to 1000.");
}

export function parseItems(text) {
  const items = text.trim() === "" ? [] : text.split(",").map((item) => item.trim());
  if (items.length > 1000) throw new InputError("At most 1,000 items.");
  return items;
}

export function parseConnectionId(text) {
  const id = text.trim();
  if (/^[\w-]{1,64}$/.test(id)) return id;
  throw new InputError("The connection id that the other window shows.");
}

const shorten = (text) => (text.length > 20 ? `${text.slice(0, 20)}…` : text);
