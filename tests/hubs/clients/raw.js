// Connections without a hub: whatever is sent comes back.
"use strict";

function rawConnection(scene, path) {
    const { HttpTransportType, LogLevel } = scene.signalR;
    const connection = new scene.HttpConnection(scene.url + path, {
        transport: HttpTransportType[scene.transport],
        logger: LogLevel.None,
    });
    connection.closed = new Promise((resolve) => { connection.onclose = (error) => resolve(error?.message); });
    scene.connections.push(connection);
    return connection;
}

async function sendAndReceive(scene, path) {
    const { TransferFormat } = scene.signalR;
    const connection = rawConnection(scene, path);
    const message = scene.inJson ? "Hello 你好!" : Uint8Array.from([0, 10, 200, 255]);
    const answer = new Promise((resolve) => { connection.onreceive = resolve; });
    await connection.start(scene.inJson ? TransferFormat.Text : TransferFormat.Binary);
    await connection.send(message);
    const data = await answer;
    scene.equal(data instanceof ArrayBuffer ? new Uint8Array(data) : data, message);
    await connection.stop();
    scene.equal(await connection.closed, undefined);
}

test("a raw connection carries text", { protocol: "json", place: "node" }, async (scene) => {
    await sendAndReceive(scene, "/echo");
});

test("a raw connection carries bytes", { not: ["WebSockets"], protocol: "messagepack", place: "node" }, async (scene) => {
    await sendAndReceive(scene, "/echo");
});

test("a redirect by HTTP is followed", { not: ["WebSockets"], place: "node" }, async (scene) => {
    await sendAndReceive(scene, "/echoredirect");
});

test("paths are found whatever their case", async (scene) => {
    const hub = await scene.connect("/TestHub");
    scene.equal(await hub.invoke("Echo", "x"), "x");
});

test("a WebSocket of the browser needs nothing else", { over: ["WebSockets"], protocol: "json", place: "browser" }, async (scene) => {
    const socket = new WebSocket(`${scene.url.replace(/^http/, "ws")}/echo`);
    await new Promise((resolve) => { socket.onopen = resolve; });
    socket.send("message");
    const { data } = await new Promise((resolve) => { socket.onmessage = resolve; });
    scene.equal(data, "message");
    socket.close();
    const end = await new Promise((resolve) => { socket.onclose = resolve; });
    scene.equal([end.code, end.wasClean], [1000, true]);
});
