// Clients of the hub behind a proxy, which may be with any of several processes. Arguments: the
// folder of the client's packages, the URL of the hub. Reads one line of JSON each and answers it:
//
//   {"connect": COUNT}   so many clients more, over each transport   -> {TRANSPORT: [token, ...]}
//   {"echo": COUNT}      so many messages from each client at once   -> {TRANSPORT: [token, ...]}
//   {"broadcast": COUNT} so many to all from each client; all have to get each of them once
//                                                                     -> {TRANSPORT: [token, ...]}
//   {"back": PREFIX}     when those whose tokens began with it are back, and no other was away
//                                                                     -> {TRANSPORT: [token, ...]}
"use strict";

const path = require("node:path");
const { createInterface } = require("node:readline");

const [, , modules, url] = process.argv;
const signalR = require(path.join(modules, "@microsoft/signalr"));

const TRANSPORTS = ["WebSockets", "ServerSentEvents", "LongPolling"];
const DELAYS = Array(400).fill(50); // milliseconds
const clients = [];

class Client extends signalR.DefaultHttpClient {
    constructor(transport) {
        super(signalR.NullLogger.instance);
        this.transport = transport;
        this.hub = new signalR.HubConnectionBuilder()
            .withUrl(url, { transport: signalR.HttpTransportType[transport], httpClient: this })
            .withAutomaticReconnect(DELAYS)
            .configureLogging(signalR.LogLevel.None)
            .build();
        this.away = 0;
        this.heard = [];
        this.hub.on("Message", (text) => void this.heard.push(text));
        this.hub.onreconnecting(() => { this.away += 1; });
    }

    async send(request) {
        const response = await super.send(request);
        if (request.url.includes("/negotiate")) this.token = JSON.parse(response.content).connectionToken;
        return response;
    }

    get here() {
        return this.hub.state === signalR.HubConnectionState.Connected;
    }
}

function tokens() {
    return Object.fromEntries(TRANSPORTS.map((each) =>
        [each, clients.filter(({ transport }) => transport === each).map(({ token }) => token)]));
}

async function connect(count) {
    const added = TRANSPORTS.flatMap((transport) => Array.from({ length: count }, () => new Client(transport)));
    await Promise.all(added.map(({ hub }) => hub.start()));
    for (const client of added) client.first = client.token;
    clients.push(...added);
}

async function echo(count) {
    await Promise.all(clients.flatMap(({ hub }) => Array.from({ length: count }, async (_, number) => {
        const answer = await hub.invoke("Echo", `${number}`);
        if (answer !== `${number}`) throw new Error(`${answer} came back for ${number}`);
    })));
}

async function until(condition) {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
}

async function broadcast(count) {
    const texts = clients.flatMap(({ token }) => Array.from({ length: count }, (_, number) => `${token} ${number}`));
    await Promise.all(clients.flatMap(({ hub, token }) =>
        texts.filter((text) => text.startsWith(`${token} `)).map((text) => hub.invoke("Broadcast", text))));
    await until(() => clients.every(({ heard }) => heard.length >= texts.length));
    const expected = texts.sort().join();
    for (const client of clients) {
        if (client.heard.sort().join() !== expected) throw new Error(`${client.token} has heard ${client.heard}`);
        client.heard = [];
    }
}

async function back(prefix) {
    const lost = clients.filter(({ first }) => first.startsWith(prefix));
    await until(() => lost.every(({ here, away, token, first }) => here && away && token !== first));
    for (const client of clients) {
        if (client.away && !lost.includes(client)) throw new Error(`${client.first} was away`);
        client.away = 0;
        client.first = client.token;
    }
}

async function main() {
    for await (const line of createInterface({ input: process.stdin })) {
        const [[name, argument]] = Object.entries(JSON.parse(line));
        await { connect, echo, broadcast, back }[name](argument);
        console.log(JSON.stringify(tokens()));
    }
}

main().then(() => process.exit(), (error) => {
    console.error(error);
    process.exit(1);
});
