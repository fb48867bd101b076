// The same cases under Node and in a browser: `test()` declares one, `runTests()` runs all that
// apply to a transport, a protocol and a place, and gives {name: null or what went wrong}.
// Each case gets a `Scene`, which stops the connections that the case made.
"use strict";

const LIMIT = 60_000; // milliseconds for one case on a busy machine

const declared = [];

// Options: `over`, `not`: transports; `protocol`; `place`: "node" or "browser". The declaration
// stands on one line, for pytest reads the names and options from the file.
function test(name, options, run) {
    declared.push(typeof options === "function" ? { name, options: {}, run: options } : { name, options, run });
}

function applies({ over, not, protocol, place }, setting) {
    return (over ?? [setting.transport]).includes(setting.transport)
        && !(not ?? []).includes(setting.transport)
        && (protocol ?? setting.protocol) === setting.protocol
        && (place ?? setting.place) === setting.place;
}

class Scene {
    constructor(setting, libraries) {
        Object.assign(this, setting, libraries);
        this.connections = [];
        this.tag = Math.random().toString(36).slice(2); // names nobody else uses
    }

    get inJson() {
        return this.protocol === "json";
    }

    // A builder for `path`. The options are those of withUrl().
    builder(path = "/testhub", options = {}) {
        const { HttpTransportType, HubConnectionBuilder, JsonHubProtocol, LogLevel } = this.signalR;
        const url = path.startsWith("http") ? path : this.url + path;
        return new HubConnectionBuilder()
            .withUrl(url, { transport: HttpTransportType[this.transport], ...options })
            .withHubProtocol(this.inJson ? new JsonHubProtocol() : new this.msgpack.MessagePackHubProtocol())
            .configureLogging(LogLevel.None);
    }

    // What `builder` makes, with `closed`: its end and the error, if any.
    build(builder) {
        const connection = builder.build();
        connection.closed = new Promise((resolve) => connection.onclose((error) => resolve(error?.message)));
        this.connections.push(connection);
        return connection;
    }

    async connect(path, options) {
        const connection = this.build(this.builder(path, options));
        await connection.start();
        return connection;
    }

    // What the server calls `method` with: `await inbox.next()`.
    inbox(connection, method) {
        const waiting = [];
        const received = [];
        connection.on(method, (...values) => {
            const value = values.length === 1 ? values[0] : values;
            if (waiting.length) waiting.shift()(value);
            else received.push(value);
        });
        return {
            received,
            next: () => received.length ? Promise.resolve(received.shift()) : new Promise((resolve) => waiting.push(resolve)),
        };
    }

    // All items of a stream; an error rejects.
    collect(stream) {
        return new Promise((resolve, reject) => {
            const items = [];
            stream.subscribe({ next: (item) => items.push(item), complete: () => resolve(items), error: reject });
        });
    }

    equal(actual, expected) {
        const [seen, wanted] = [plain(actual), plain(expected)].map((each) => JSON.stringify(each));
        if (seen !== wanted) throw new Error(`${seen} instead of ${wanted}`);
    }

    async rejects(promise, text) {
        let result;
        try {
            result = await promise;
        } catch (error) {
            this.equal(error.message, text);
            return;
        }
        throw new Error(`${JSON.stringify(plain(result))} instead of the error ${text}`);
    }

    async get(path) {
        return (await fetch(this.url + path)).text();
    }

    // A token of the host for this user, valid for `seconds`.
    token(user, seconds = 60) {
        return this.get(`/generateJwtToken?user=${encodeURIComponent(user)}&seconds=${seconds}`);
    }

    async until(condition) {
        while (!await condition()) await new Promise((resolve) => setTimeout(resolve, 5));
    }

    async end() {
        await Promise.all(this.connections.map((each) => each.stop()));
    }
}

// JSON tells neither bytes nor dates nor undefined from texts and null; the mark does.
function plain(value) {
    if (value === undefined) return { undefined: true };
    if (value instanceof Date) return { date: value.toISOString() };
    if (value instanceof Uint8Array) return { bytes: Array.from(value) };
    if (Array.isArray(value)) return value.map(plain);
    if (value === null || typeof value !== "object") return value;
    const pairs = Object.entries(value).map(([key, inner]) => [key, plain(inner)]);
    return Object.fromEntries(pairs.sort(([one], [other]) => (one < other ? -1 : 1)));
}

async function runOne({ run }, setting, libraries) {
    const scene = new Scene(setting, libraries);
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`not done after ${LIMIT / 1000} s`)), LIMIT);
    });
    try {
        await Promise.race([run(scene).then(() => scene.end()), late]);
        return null;
    } catch (error) {
        return `${error?.stack ?? error}`;
    } finally {
        clearTimeout(timer);
        scene.end().catch(() => {});
    }
}

// `setting`: {url, transport, protocol, place, atOnce: how many cases run at the same time}.
async function runTests(setting, libraries) {
    const results = {};
    const left = declared.filter(({ options }) => applies(options, setting));
    const worker = async () => {
        for (let each = left.shift(); each; each = left.shift()) {
            results[each.name] = await runOne(each, setting, libraries);
        }
    };
    await Promise.all(Array.from({ length: setting.atOnce }, worker));
    return results;
}

globalThis.test = test;
globalThis.runTests = runTests;
