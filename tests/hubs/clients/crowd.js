// A crowd of Microsoft's clients at the service's own hub, wherever each of them ends up. Reads
// {url, clients, transport, broadcasts} and writes what each has seen:
// {ids, echoes, heard: [[texts], ...], asked: [answers]}.
"use strict";

const { createRequire } = require("node:module");

const setting = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const load = createRequire(process.argv[2] + "/");
const { HttpTransportType, HubConnectionBuilder, LogLevel } = load("@microsoft/signalr");

const LIMIT = 20_000; // milliseconds

async function connect() {
    const options = setting.transport ? { transport: HttpTransportType[setting.transport] } : {};
    const hub = new HubConnectionBuilder()
        .withUrl(`${setting.url}/hub`, options)
        .configureLogging(LogLevel.None)
        .build();
    hub.heard = [];
    hub.on("Message", (text) => void hub.heard.push(text));
    hub.on("Answer", (question) => `${question} ${hub.connectionId}`);
    await hub.start();
    return hub;
}

async function until(condition) {
    const deadline = Date.now() + LIMIT;
    while (!condition() && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
}

async function main() {
    const hubs = [];
    for (let number = 0; number < setting.clients; number++) hubs.push(await connect());
    const echoes = await Promise.all(hubs.map((hub, number) => hub.invoke("Echo", `${number}`)));
    const count = setting.broadcasts ?? 0;
    for (let number = 0; number < count; number++) {
        await Promise.all(hubs.map((hub, from) => hub.invoke("Broadcast", `${from}:${number}`)));
    }
    await until(() => hubs.every(({ heard }) => heard.length >= count * hubs.length));
    const asked = [];
    for (const [number, hub] of count ? hubs.entries() : []) {
        const other = hubs[(number + 1) % hubs.length];
        asked.push((await hub.invoke("Ask", other.connectionId, "who?")) === `who? ${other.connectionId}`);
    }
    const seen = { ids: hubs.map(({ connectionId }) => connectionId), echoes, heard: hubs.map(({ heard }) => heard), asked };
    await Promise.all(hubs.map((hub) => hub.stop()));
    console.log(JSON.stringify(seen));
}

main().then(() => process.exit(0), (error) => {
    console.error(error);
    process.exit(1);
});
