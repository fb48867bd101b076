// Clients that outlive their server. Writes "connected" once all are; after the server's restart
// each must be back under a new id, hear a broadcast, and be heard: then it writes the results.
"use strict";

const path = require("node:path");
const [, , modules, text] = process.argv;
const signalR = require(path.join(modules, "@microsoft/signalr"));
const { MessagePackHubProtocol } = require(path.join(modules, "@microsoft/signalr-protocol-msgpack"));
const { url, method, event, kinds } = JSON.parse(text);

const DELAYS = Array(400).fill(50); // milliseconds; a restart takes some seconds

async function client([transport, protocol], number) {
    const hub = new signalR.HubConnectionBuilder()
        .withUrl(url, { transport: signalR.HttpTransportType[transport] })
        .withHubProtocol(protocol === "json" ? new signalR.JsonHubProtocol() : new MessagePackHubProtocol())
        .withAutomaticReconnect(DELAYS)
        .configureLogging(signalR.LogLevel.None)
        .build();
    const heard = [];
    hub.on(event, (...words) => heard.push(words.join(" ")));
    const told = { lost: 0, closed: 0 };
    hub.onreconnecting(() => { told.lost += 1; });
    hub.onclose(() => { told.closed += 1; });
    const back = new Promise((resolve) => hub.onreconnected(resolve));
    await hub.start();
    const before = hub.connectionId;
    return { hub, heard, told, back, before, number };
}

async function until(condition) {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
}

async function main() {
    const clients = await Promise.all(kinds.map(client));
    const say = ({ hub, number }) => hub.invoke(method, `client ${number}`, "hello");
    const everybody = clients.map(({ number }) => `client ${number} hello`).sort().join();
    const allHeard = () => clients.every(({ heard }) => heard.slice().sort().join() === everybody);
    await Promise.all(clients.map(say));
    await until(allHeard);
    console.log("connected");

    await Promise.all(clients.map(({ back }) => back));
    for (const { heard } of clients) heard.length = 0;
    await Promise.all(clients.map(say));
    await until(allHeard);
    console.log(JSON.stringify(clients.map(({ hub, before, told }) => ({ ...told, newId: hub.connectionId !== before }))));
    await Promise.all(clients.map(({ hub }) => hub.stop()));
}

main().then(() => process.exit(), (error) => {
    console.error(error);
    process.exit(1);
});
