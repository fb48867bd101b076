// Stateful reconnect: numbers go both ways, as messages, calls and streams, while somebody cuts
// the link. Tells in the end what arrived, in which order. For Node and for browsers.
"use strict";

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function resume({ url, protocol, count }, { signalR, msgpack }) {
    const hub = new signalR.HubConnectionBuilder()
        .withUrl(url, { transport: signalR.HttpTransportType.WebSockets })
        .withHubProtocol(protocol === "json" ? new signalR.JsonHubProtocol() : new msgpack.MessagePackHubProtocol())
        .withStatefulReconnect({ bufferSize: 100_000 })
        .configureLogging(signalR.LogLevel.None)
        .build();
    const seen = { lost: 0, closed: "", received: [], streamed: [], answers: [] };
    hub.onreconnecting(() => { seen.lost += 1; });
    hub.onclose((error) => { seen.closed = error?.message ?? "closed"; });
    hub.on("Number", (number) => seen.received.push(number));
    await hub.start();
    const before = hub.connectionId;

    const uploaded = new signalR.Subject();
    const upload = hub.invoke("SlowSum", uploaded, 0);
    const stream = new Promise((resolve, reject) => {
        const observer = { next: (item) => seen.streamed.push(item), complete: resolve, error: reject };
        hub.stream("Counter", count, 0.005).subscribe(observer);
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
    return { ...seen, closed };
}

if (typeof module !== "undefined") {
    const path = require("node:path");
    const [, , modules, setting] = process.argv;
    const libraries = {
        signalR: require(path.join(modules, "@microsoft/signalr")),
        msgpack: require(path.join(modules, "@microsoft/signalr-protocol-msgpack")),
    };
    resume(JSON.parse(setting), libraries).then(
        (seen) => process.stdout.write(`${JSON.stringify(seen)}\n`, () => process.exit()),
        (error) => {
            console.error(error);
            process.exit(1);
        },
    );
}
