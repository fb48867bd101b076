// The connection itself: how it is found, who may have it, how it ends and comes back.
"use strict";

const UNAUTHORIZED = "Failed to complete negotiation with the server: Error: Unauthorized: Status code '401'";
const TIMED_OUT = "Server timeout elapsed without receiving a message from the server.";
const FAST = [0, 50, 100, 200, 500, 1000, 2000]; // milliseconds before each attempt to reconnect

test("the transport that was asked for is the one that is used", async (scene) => {
    const hub = await scene.connect();
    scene.equal(await hub.invoke("GetActiveTransportName"), scene.transport);
});

test("a connection ends without an error and can be started again", async (scene) => {
    const hub = scene.build(scene.builder());
    for (const time of [1, 2, 3]) {
        await hub.start();
        scene.equal(await hub.invoke("EchoAny", time), time);
        await hub.stop();
        scene.equal(await hub.closed, undefined);
    }
});

test("both ends know the connection by the same id", async (scene) => {
    const hub = scene.build(scene.builder());
    scene.equal(hub.connectionId, null);
    await hub.start();
    scene.equal(await hub.invoke("GetCallerConnectionId"), hub.connectionId);
    await hub.stop();
    scene.equal(hub.connectionId, null);
});

test("the public id opens no connection", async (scene) => {
    const hub = await scene.connect();
    for (const method of ["GET", "POST", "DELETE"]) {
        const response = await fetch(`${scene.url}/testhub?id=${hub.connectionId}`, { method });
        scene.equal([response.status, await response.text()], [404, "No Connection with that ID"]);
    }
});

test("WebSockets need no negotiation", { over: ["WebSockets"] }, async (scene) => {
    const hub = await scene.connect("/testhub", { skipNegotiation: true });
    scene.equal(hub.connectionId, null);
    scene.equal(await hub.invoke("Echo", "x"), "x");
});

test("where there are no WebSockets the next transport is taken", { over: ["WebSockets"] }, async (scene) => {
    const hub = await scene.connect("/testhub-nowebsockets", { transport: undefined });
    scene.equal(await hub.invoke("GetActiveTransportName"), scene.inJson ? "ServerSentEvents" : "LongPolling");
});

test("a transport that is switched off is not offered", { over: ["WebSockets"] }, async (scene) => {
    const hub = scene.build(scene.builder("/testhub-nowebsockets"));
    const text = await hub.start().then(() => "no error", (error) => error.message);
    scene.equal(text.startsWith("Unable to connect to the server with any of the available transports."), true);
});

test("a protocol that nobody speaks is refused by name", async (scene) => {
    const { signalR } = scene;
    const protocol = Object.assign(new signalR.JsonHubProtocol(), { name: "klingon" });
    const hub = scene.build(scene.builder().withHubProtocol(protocol));
    await scene.rejects(hub.start(), "Server returned handshake error: The protocol 'klingon' is not supported.");
});

test("a failing on_connected ends the connection and lets nobody come back", async (scene) => {
    const text = "Server returned an error on close: Connection closed with an error.";
    const tooLate = "No Connection with that ID: Status code '404'"; // for the client's first ping
    for (const [path, detail] of [["/failinghub", ""], ["/failinghub-detailed", " InvalidOperationException: Not today."]]) {
        const hub = scene.build(scene.builder(path).withAutomaticReconnect(FAST));
        let tries = 0;
        hub.onreconnecting(() => { tries += 1; });
        const start = hub.start().then(() => hub.closed, (error) => error.message);
        const seen = await start;
        if (scene.transport !== "ServerSentEvents" || seen !== tooLate) scene.equal(seen, text + detail);
        scene.equal(tries, 0);
    }
});

test("the server can end a connection for good", async (scene) => {
    const hub = scene.build(scene.builder().withAutomaticReconnect(FAST));
    await hub.start();
    let tries = 0;
    hub.onreconnecting(() => { tries += 1; });
    hub.send("Abort").catch(() => {});
    scene.equal(await hub.closed, undefined);
    scene.equal(tries, 0);
});

test("a message that is too large ends the connection", async (scene) => {
    const hub = await scene.connect();
    hub.send("Echo", "x".repeat(33_000)).catch(() => {});
    scene.equal((await hub.closed) !== undefined, true);
});

test("the server learns who left", async (scene) => {
    const [leaver, observer] = [await scene.connect(), await scene.connect()];
    const gone = scene.inbox(observer, "Gone");
    await observer.invoke("WatchFor", scene.tag);
    await leaver.invoke("TellWhenGone", scene.tag);
    await leaver.stop();
    scene.equal(await gone.next(), scene.tag);
});

test("a silent server is noticed", { not: ["LongPolling"] }, async (scene) => {
    const hub = await scene.connect();
    hub.serverTimeoutInMilliseconds = 1; // only now, so that the handshake has its time
    await hub.invoke("Echo", "");
    scene.equal(await hub.closed, TIMED_OUT);
});

test("pings keep an idle connection, in both directions", { not: ["LongPolling"], place: "node" }, async (scene) => {
    // The server pings each 0.2 s and waits 4 s for its clients.
    const hub = scene.build(scene.builder("/quickhub").withKeepAliveInterval(200).withServerTimeout(4000));
    await hub.start();
    await new Promise((resolve) => setTimeout(resolve, 5000));
    scene.equal(await hub.invoke("Echo", "still there"), "still there");
});

test("a silent client is dropped", { not: ["LongPolling"], place: "node" }, async (scene) => {
    const hub = scene.build(scene.builder("/quickhub").withKeepAliveInterval(3_600_000));
    const begun = Date.now(); // before start(), which may be told of late
    await hub.start();
    await hub.closed;
    scene.equal(Date.now() - begun > 3900, true);
});

test("an idle long poll is answered and asked again", { over: ["LongPolling"], place: "node" }, async (scene) => {
    const hub = await scene.connect("/quickhub"); // a poll lasts 0.5 s there
    const inbox = scene.inbox(hub, "Message");
    await new Promise((resolve) => setTimeout(resolve, 1200));
    await hub.send("SendToCaller", "late");
    scene.equal(await inbox.next(), "late");
});

test("a lost connection comes back under a new id", async (scene) => {
    const hub = scene.build(scene.builder().withAutomaticReconnect(FAST));
    const back = new Promise((resolve) => hub.onreconnected(resolve));
    await hub.start();
    const before = hub.connectionId;
    hub.serverTimeout(); // what the client does when the server is silent
    const after = await back;
    scene.equal([after === before, after === await hub.invoke("GetCallerConnectionId")], [false, true]);
});

test("a redirect of negotiate is followed, anew each time", async (scene) => {
    const url = `/redirect?numRedirects=0&baseUrl=${encodeURIComponent(scene.url)}`;
    const hub = scene.build(scene.builder(url).withAutomaticReconnect(FAST));
    const back = new Promise((resolve) => hub.onreconnected(resolve));
    await hub.start();
    const first = await hub.invoke("GetNumRedirects");
    hub.serverTimeout();
    await back;
    scene.equal(await hub.invoke("GetNumRedirects") > first, true);
});

test("a redirect of negotiate may bring a token", async (scene) => {
    const hub = await scene.connect(`/redirect-authorized?baseUrl=${encodeURIComponent(scene.url)}`);
    scene.equal(await hub.invoke("GetUserNameIdentifier"), "redirected");
});

test("what negotiate answers instead of a connection is told", async (scene) => {
    const error = "Failed to complete negotiation with the server: Error: Some response from server: Status code '400'";
    await scene.rejects(scene.connect("/bad-negotiate"), error);
    await scene.rejects(scene.connect("/error-negotiate"), "Not here, not today.");
});

test("without a token nobody gets in", async (scene) => {
    await scene.rejects(scene.connect("/authorizedhub"), UNAUTHORIZED);
    await scene.rejects(scene.connect("/authorizedhub", { accessTokenFactory: () => "none.of.ours" }), UNAUTHORIZED);
    const expired = await scene.token("late", -1);
    await scene.rejects(scene.connect("/authorizedhub", { accessTokenFactory: () => expired }), UNAUTHORIZED);
});

test("a token opens the hub and names the user", async (scene) => {
    const ready = await scene.token("testuser");
    for (const accessTokenFactory of [() => ready, () => scene.token("testuser")]) {
        const hub = await scene.connect("/authorizedhub", { accessTokenFactory });
        scene.equal(await hub.invoke("Echo", "x"), "x");
        scene.equal(await hub.invoke("GetUserNameIdentifier"), "testuser");
        await hub.stop();
    }
});

test("a token opens the hub without negotiation", { over: ["WebSockets"] }, async (scene) => {
    const options = { accessTokenFactory: () => scene.token("direct"), skipNegotiation: true };
    const hub = await scene.connect("/authorizedhub", options);
    scene.equal(await hub.invoke("GetUserNameIdentifier"), "direct");
    await scene.rejects(
        scene.connect("/authorizedhub", { skipNegotiation: true }),
        "WebSocket failed to connect. The connection could not be found on the server, either the endpoint may not be a "
        + "SignalR endpoint, the connection ID is not present on the server, or there is a proxy blocking WebSockets. If you "
        + "have multiple servers check that sticky sessions are enabled.",
    );
});

test("a method may be for some users only", async (scene) => {
    const refused = "Failed to invoke 'AdminsOnly' because user is unauthorized";
    const [user, admin] = await Promise.all(["user", "admin"].map(
        (name) => scene.connect("/authorizedhub", { accessTokenFactory: () => scene.token(name) }),
    ));
    await scene.rejects(user.invoke("AdminsOnly"), refused);
    scene.equal(await admin.invoke("AdminsOnly"), "welcome");
});

test("headers of the app reach the hub", { place: "node" }, async (scene) => {
    const hub = await scene.connect("/testhub", { headers: { "X-HEADER": "VALUE", "User-Agent": "Custom Agent" } });
    scene.equal(await hub.invoke("GetHeader", "x-header"), "VALUE");
    scene.equal(await hub.invoke("GetHeader", "user-agent"), "Custom Agent");
    scene.equal(await hub.invoke("GetHeader", "X-Nothing"), null);
});

test("the client's own header reaches the hub", { place: "node" }, async (scene) => {
    const hub = await scene.connect();
    const header = await hub.invoke("GetHeader", "User-Agent");
    scene.equal(header.startsWith("Microsoft SignalR/10.0 (10.0.11; "), true);
});

test("cookies of negotiate come with the transport", async (scene) => {
    const hub = await scene.connect();
    scene.equal(await hub.invoke("GetCookie", "testCookie"), "testValue");
    scene.equal(await hub.invoke("GetCookie", "testCookie2"), "testValue2");
    scene.equal(await hub.invoke("GetCookie", "expiredCookie"), null);
});

test("what the query of the address says reaches the hub", async (scene) => {
    const hub = await scene.connect(`/testhub?room=${encodeURIComponent("a b&ä")}`);
    scene.equal(await hub.invoke("GetQuery", "room"), "a b&ä");
});
