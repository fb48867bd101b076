// How a message is measured and shown. A message is a string or bytes; a preview's length is
// bounded however large the message, so that a log of previews is bounded too.

const TEXT_PREVIEW = 200; // characters, in at most
const TEXT_LINES = 8; // lines
const HEX_PREVIEW = 64; // bytes
const numbers = new Intl.NumberFormat("en");
const encoder = new TextEncoder();

export const formatNumber = (number) => numbers.format(number);

export const kindOf = (data) => (typeof data === "string" ? "text" : "binary");

// In bytes, as they travel: text is counted in UTF-8.
export const sizeOf = (data) =>
  typeof data === "string" ? encoder.encode(data).length : data.byteLength;

export function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

// {text, more}: the beginning of the message, and what was left out, if anything was.
export function preview(data) {
  return typeof data === "string" ? previewText(data) : previewBytes(new Uint8Array(data));
}

function previewText(text) {
  const lines = text.slice(0, TEXT_PREVIEW).split("\n", TEXT_LINES).join("\n");
  if (lines.length === text.length) return { text, more: "" };
  const start = lines.replace(/[\ud800-\udbff]$/, ""); // no half characters
  return { text: start, more: `${formatNumber(text.length - start.length)} more characters` };
}

function previewBytes(bytes) {
  const text = toHex(bytes.subarray(0, HEX_PREVIEW));
  const rest = bytes.length - HEX_PREVIEW;
  return { text, more: rest > 0 ? `${formatNumber(rest)} more bytes` : "" };
}
