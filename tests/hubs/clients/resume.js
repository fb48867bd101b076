// Stateful reconnect: numbers go both ways, as messages, calls and streams, while somebody cuts
// the link. Writes a dot for each piece of progress, in the end what arrived in which order.
"use strict";

const path = require("node:path");
const [, , modules, text] = process.argv;
const signalR = require(path.join(modules, "@microsoft/signalr"));
const { MessagePackHubProtocol } = require(path.join(modules, "@microsoft/signalr-protocol-msgpack"));
const { url, protocol, count } = JSON.parse(text);

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function main() {
    const hub = new signalR.HubConnectionBuilder()
        .withUrl(url, { transport: signalR.HttpTransportType.WebSockets })
        .withHubProtocol(protocol === "json" ? new signalR.JsonHubProtocol() : new MessagePackHubProtocol())
        .withStatefulReconnect({ bufferSize: 100_000 })
        .configureLogging(signalR.LogLevel.None)
        .build();
    const seen = { lost: 0, closed: "", received: [], streamed: [], answers: [] };
    hub.onreconnecting(() => { seen.lost += 1; });
    hub.onclose((error) => { seen.closed = error?.message ?? "closed"; });
    hub.on("Number", (number) => {
        seen.received.push(number);
        if (number % 20 === 0) process.stdout.write(".\n");
    });
    await hub.start();
    const before = hub.connectionId;

    const uploaded = new signalR.Subject();
    const upload = hub.invoke("SlowSum", uploaded, 0);
    const stream = new Promise((resolve, reject) => {
        hub.stream("Counter", count, 0.005).subscribe({ next: (item) => seen.streamed.push(item), complete: resolve, error: reject });
    });
    await hub.send("StartNumbers", count, 0.005);
    const sending = (async () => {
        for (let number = 0; number < count; number++) {
            hub.send("Note", number).catch((error) => { seen.closed = `send: ${error.message}`; });
            uploaded.next(number);
            if (number % 10 === 0) seen.answers.push(hub.invoke("EchoAny", number));
            await pause(5);
        }
        uploaded.complete();
    })();
    await Promise.all([sending, stream]);
    seen.answers = await Promise.all(seen.answers);
    seen.sum = await upload;
    seen.notes = await hub.invoke("Notes");
    while (seen.received.length < count && !seen.closed) await pause(10);
    await pause(100); // what comes doubled comes now
    seen.sameId = hub.connectionId === before && await hub.invoke("GetCallerConnectionId") === before;
    const { closed } = seen;
    await hub.stop();
    console.log(JSON.stringify({ ...seen, closed }));
}

main().then(() => process.exit(), (error) => {
    console.error(error);
    process.exit(1);
});
