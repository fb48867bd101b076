// The hub protocol in JSON: messages to text and back. Each message ends with a record separator,
// and transports cut where they like: what is incomplete waits for its rest, within LIMIT.

export const Type = Object.freeze({
  INVOCATION: 1,
  STREAM_ITEM: 2,
  COMPLETION: 3,
  STREAM_INVOCATION: 4,
  CANCEL_INVOCATION: 5,
  PING: 6,
  CLOSE: 7,
});

const END = "\u001e";
const LIMIT = 1 << 20; // characters of one message

export const encode = (message) => JSON.stringify(message) + END;

// What a client says first. Version 2 is for those who can resume a connection.
export const HANDSHAKE = encode({ protocol: "json", version: 1 });

// Takes what arrived; gives the whole messages in it, each as {text, message}.
export function createReader() {
  let rest = "";
  return (received) => {
    const texts = (rest + received).split(END);
    rest = texts.pop();
    if (rest.length > LIMIT) throw new Error("a message was too large");
    return texts.map((text) => ({ text, message: parse(text) }));
  };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("what came is not JSON");
  }
}
