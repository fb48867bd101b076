// Calls in both directions: values, errors and their exact texts.
"use strict";

const HELLO = "你好，世界！ 👋 \u0000 \"quoted\" \\";
const FAILED = "An unexpected error occurred invoking 'ThrowException' on the server.";
const NOT_BOUND = "Failed to invoke 'Echo' due to an error on the server.";
const COUNT = "InvalidDataException: Invocation provides 2 argument(s) but target expects 1.";

test("text comes back as it went", async (scene) => {
    const hub = await scene.connect();
    const texts = [HELLO, "", "x".repeat(30_000)];
    scene.equal(await Promise.all(texts.map((text) => hub.invoke("Echo", text))), texts);
});

test("a method is found whatever the case of its name", async (scene) => {
    const hub = await scene.connect();
    const names = ["GetCallerConnectionId", "getcallerconnectionid", "get_caller_connection_id"];
    scene.equal(await Promise.all(names.map((name) => hub.invoke(name))), names.map(() => hub.connectionId));
});

test("a method may carry a name that Python would not give", async (scene) => {
    const hub = await scene.connect();
    scene.equal(await hub.invoke("Über-Echo", "x"), "x");
});

test("nothing is undefined and None is null", async (scene) => {
    const hub = await scene.connect();
    scene.equal(await hub.invoke("Nothing"), undefined);
    scene.equal(await hub.invoke("GetCookie", "no such cookie"), null);
});

test("all plain values come back as they went", async (scene) => {
    const hub = await scene.connect();
    const values = [0, -1, 127, 128, 255, 256, 65536, 2 ** 31, -(2 ** 31), 2 ** 53 - 1, -(2 ** 53), 0.1, -1e300,
        true, false, null, "", [], {}, [[1], [2, [3]]], { a: { "b c": [null, { d: "ä" }] } }];
    scene.equal(await Promise.all(values.map((value) => hub.invoke("EchoAny", value))), values);
});

test("a complex object comes back as it went", async (scene) => {
    const hub = await scene.connect();
    const object = {
        ByteArray: scene.inJson ? "aGVsbG8=" : new Uint8Array([104, 101, 108, 108, 111]),
        DateTime: scene.inJson ? "2002-04-01T10:20:15Z" : new Date(Date.UTC(2002, 3, 1, 10, 20, 15)),
        Guid: "00010203-0405-0607-0706-050403020100",
        IntArray: [1, 2, 3, 255],
        String: HELLO,
    };
    scene.equal(await hub.invoke("EchoComplexObject", object), object);
});

test("a complex object of the server arrives", async (scene) => {
    const hub = await scene.connect();
    scene.equal(await hub.invoke("SendComplexObject"), {
        ByteArray: scene.inJson ? "AQID" : new Uint8Array([1, 2, 3]),
        DateTime: scene.inJson ? "2000-01-01T00:00:00Z" : new Date(Date.UTC(2000, 0, 1)),
        Guid: "00010203-0405-0607-0706-050403020100",
        IntArray: [1, 2, 3],
        String: "hello world",
    });
});

test("bytes are bytes on the server", async (scene) => {
    const hub = await scene.connect();
    const all = Uint8Array.from({ length: 256 }, (_, index) => 255 - index);
    const wire = (bytes) => scene.inJson ? btoa(String.fromCharCode(...bytes)) : bytes;
    scene.equal(await hub.invoke("ReverseBytes", wire(all)), wire(all.slice().reverse()));
    scene.equal(await hub.invoke("ReverseBytes", wire(new Uint8Array())), wire(new Uint8Array()));
});

test("dates are dates on the server", async (scene) => {
    const hub = await scene.connect();
    const next = async (date) => new Date(await hub.invoke("NextDay", date)).toISOString();
    scene.equal(await next(new Date("2024-02-28T23:59:59.123Z")), "2024-02-29T23:59:59.123Z");
    scene.equal(await next(new Date("1969-12-30T00:00:00Z")), "1969-12-31T00:00:00.000Z");
});

test("a custom object travels to the server and back in a call", async (scene) => {
    const hub = await scene.connect();
    const inbox = scene.inbox(hub, "CustomObject");
    await hub.send("SendCustomObject", { Name: "test", Value: 42 });
    scene.equal(await inbox.next(), { Name: "test", Value: 42 });
});

test("the server calls with no, one and several arguments", async (scene) => {
    const hub = await scene.connect();
    const inbox = scene.inbox(hub, "CALLED"); // the server says Called
    for (const values of [[], [HELLO], [1, null, [2], { a: 3 }]]) {
        await hub.invoke("CallMe", values);
        const seen = await inbox.next();
        scene.equal(values.length === 1 ? [seen] : seen, values);
    }
});

test("a result larger than what a client may send arrives", async (scene) => {
    const hub = await scene.connect();
    const text = await hub.invoke("Repeat", "0123456789", 100_000);
    scene.equal([text.length, text.slice(-12)], [1_000_000, "890123456789"]);
});

test("calls without an answer are handled in their order", async (scene) => {
    const hub = await scene.connect();
    const numbers = Array.from({ length: 200 }, (_, index) => index);
    await Promise.all(numbers.map((number) => hub.send("Note", number)));
    scene.equal(await hub.invoke("Notes"), numbers);
});

test("a hundred calls at once get each its own answer", async (scene) => {
    const hub = await scene.connect();
    const numbers = Array.from({ length: 100 }, (_, index) => index);
    scene.equal(await Promise.all(numbers.map((number) => hub.invoke("EchoAny", number))), numbers);
});

test("what the server sends arrives in its order and before the answer", async (scene) => {
    const hub = await scene.connect();
    const inbox = scene.inbox(hub, "Number");
    await hub.invoke("SendNumbers", 500);
    scene.equal(inbox.received, Array.from({ length: 500 }, (_, index) => index));
});

test("an error of a method has the exact text", async (scene) => {
    const hub = await scene.connect();
    await scene.rejects(hub.invoke("ThrowException", "An error occurred."), `${FAILED} InvalidOperationException: An error occurred.`);
    scene.equal(await hub.invoke("Echo", "still there"), "still there");
});

test("without detailed errors a client learns no more than that", async (scene) => {
    const hub = await scene.connect("/plainhub");
    await scene.rejects(hub.invoke("ThrowException", "secret"), FAILED);
    await scene.rejects(hub.invoke("Echo", 1, 2), NOT_BOUND);
    await scene.rejects(hub.invoke("Echo", {}), NOT_BOUND);
});

test("what a hub says to its client goes to the client, with and without details", async (scene) => {
    for (const path of ["/testhub", "/plainhub"]) {
        const hub = await scene.connect(path);
        await scene.rejects(
            hub.invoke("ThrowHubError", "Not on Sundays."),
            "An unexpected error occurred invoking 'ThrowHubError' on the server. HubException: Not on Sundays.",
        );
    }
});

test("wrong arguments are told by number and not by content", async (scene) => {
    const hub = await scene.connect();
    await scene.rejects(hub.invoke("Echo", "a", "b"), `${NOT_BOUND} ${COUNT}`);
    await scene.rejects(
        hub.invoke("Echo", { a: 1 }),
        `${NOT_BOUND} InvalidDataException: Error binding arguments. Make sure that the types of the provided values match `
        + "the types of the hub method being invoked.",
    );
});

test("a wrong call without an answer ends nothing", async (scene) => {
    const hub = await scene.connect();
    for (const call of [["Nope"], ["Echo"], ["Echo", 1], ["ThrowException", "x"]]) await hub.send(...call);
    scene.equal(await hub.invoke("Echo", "still there"), "still there");
});

test("only what is meant for clients can be called", async (scene) => {
    const hub = await scene.connect();
    const names = ["Nope", "on_connected", "OnDisconnected", "__init__", "clients", "Context", "_private"];
    await Promise.all(names.map((name) => scene.rejects(hub.invoke(name), `Unknown hub method '${name}'`)));
});
