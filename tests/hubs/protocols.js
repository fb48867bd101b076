// Reads {protocol: [base64 of bytes]} and writes, for each protocol, what Microsoft's client makes
// of these bytes, and the bytes that it writes for messages of its own.
"use strict";

const path = require("node:path");
const modules = process.argv[2];
const { JsonHubProtocol, NullLogger, MessageType } = require(path.join(modules, "@microsoft/signalr"));
const { MessagePackHubProtocol } = require(path.join(modules, "@microsoft/signalr-protocol-msgpack"));

const protocols = { json: new JsonHubProtocol(), messagepack: new MessagePackHubProtocol() };

function read(protocol, bytes) {
    const input = protocol.name === "json"
        ? bytes.toString("utf8")
        : bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    return protocol.parseMessages(input, NullLogger.instance).map(plain);
}

// JSON has neither of these; the mark tells them from texts.
function plain(value) {
    if (value instanceof Date) return { date: value.toISOString() };
    if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString("base64") };
    if (Array.isArray(value)) return value.map(plain);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}

const call = { target: "Send", streamIds: [] };
const written = [
    { type: MessageType.Invocation, ...call, arguments: [42, "Test Message", -1.5, null, true, [], {}] },
    { type: MessageType.Invocation, ...call, invocationId: "1", arguments: [{ a: [{ b: "ä😀\u001e" }] }] },
    { type: MessageType.Invocation, ...call, arguments: [2 ** 31, -(2 ** 40), 2 ** 53 - 1, 1e300] },
    { type: MessageType.Invocation, target: "Send", arguments: ["no streams"] },
    { type: MessageType.Invocation, ...call, invocationId: "2", arguments: [], streamIds: ["3", "4"] },
    { type: MessageType.StreamInvocation, ...call, invocationId: "5", arguments: [10] },
    { type: MessageType.StreamItem, invocationId: "3", item: { x: 1 } },
    { type: MessageType.StreamItem, invocationId: "3", item: null },
    { type: MessageType.Completion, invocationId: "3" },
    { type: MessageType.Completion, invocationId: "6", result: null },
    { type: MessageType.Completion, invocationId: "6", result: [1] },
    { type: MessageType.Completion, invocationId: "6", error: "Client didn't provide a result." },
    { type: MessageType.CancelInvocation, invocationId: "5" },
    { type: MessageType.Ping },
    { type: MessageType.Close },
    { type: MessageType.Ack, sequenceId: 3 },
    { type: MessageType.Sequence, sequenceId: 5_000_000_000 },
    // What the two protocols write differently
    { type: MessageType.Invocation, ...call, arguments: ["half \ud83d"] },
    { type: MessageType.Invocation, ...call, arguments: [new Date(Date.UTC(2024, 1, 29, 12, 0, 0, 5))] },
    { type: MessageType.Invocation, ...call, arguments: [new Uint8Array([0, 255])] },
];

const ours = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const answer = {};
for (const [name, protocol] of Object.entries(protocols)) {
    answer[name] = {
        read: ours[name].map((frame) => read(protocol, Buffer.from(frame, "base64"))),
        written: written.map((message) => Buffer.from(protocol.writeMessage(message)).toString("base64")),
    };
}
process.stdout.write(JSON.stringify(answer));
