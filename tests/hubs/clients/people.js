// Whom the server can reach: everybody, some, groups, users; and what clients answer it.
"use strict";

// Three connections, each with its inbox for `Message`. The tag keeps other cases' messages out.
async function three(scene, path, options) {
    const hubs = await Promise.all([1, 2, 3].map(() => scene.connect(path, options)));
    const seen = hubs.map(() => []);
    hubs.forEach((hub, index) => hub.on("Message", (text) => text.startsWith(scene.tag) && seen[index].push(text.slice(scene.tag.length))));
    return { hubs, seen };
}

// Once each has the last message, which goes to everybody, the others before it have arrived.
async function seenBy(scene, { hubs, seen }) {
    await hubs[0].invoke("SendToAll", `${scene.tag}end`);
    await scene.until(() => seen.every((texts) => texts.at(-1) === "end"));
    return seen.map((texts) => texts.slice(0, -1).join(" "));
}

test("all, others, the caller and chosen clients are reached", async (scene) => {
    const people = await three(scene);
    const [first, second, third] = people.hubs;
    const send = (method, text, ...rest) => first.invoke(method, `${scene.tag}${text}`, ...rest);
    await Promise.all([
        send("SendToAll", "all"),
        send("SendToOthers", "others"),
        send("SendToCaller", "caller"),
        send("SendToClient", "client", second.connectionId),
        send("SendToClient", "nobody", "no such connection"),
        send("SendToClients", "clients", [first.connectionId, third.connectionId]),
        send("SendToAllExcept", "except", [first.connectionId, second.connectionId]),
    ]);
    scene.equal(await seenBy(scene, people), ["all caller clients", "all others client", "all others clients except"]);
});

test("groups can be joined, reached and left", async (scene) => {
    const people = await three(scene);
    const [first, second, third] = people.hubs;
    const group = `group of ${scene.tag}`;
    const send = (method, text, ...rest) => first.invoke(method, `${scene.tag}${text}`, ...rest);
    await send("SendToGroup", "empty", group);
    await Promise.all([first.invoke("Join", group), second.invoke("Join", group), second.invoke("Join", group)]);
    await third.invoke("Join", `${group}2`);
    await Promise.all([
        send("SendToGroup", "group", group),
        send("SendToOthersInGroup", "others", group),
        send("SendToGroupExcept", "except", group, [second.connectionId]),
        send("SendToGroups", "groups", [group, `${group}2`]),
    ]);
    await Promise.all([second, third].map((hub) => hub.invoke("Leave", group)));
    await send("SendToGroup", "left", group);
    scene.equal(await seenBy(scene, people), ["group except groups left", "group others groups", "groups"]);
});

test("groups know no names in another case", async (scene) => {
    const people = await three(scene);
    await people.hubs[0].invoke("Join", `${scene.tag}A`);
    await people.hubs[0].invoke("SendToGroup", `${scene.tag}x`, `${scene.tag}a`);
    scene.equal(await seenBy(scene, people), ["", "", ""]);
});

test("a user is reached on every connection of theirs", async (scene) => {
    const hubs = [];
    for (const name of ["ann", "ann", "bob"]) {
        hubs.push(await scene.connect("/authorizedhub", { accessTokenFactory: () => scene.token(`${scene.tag}${name}`) }));
    }
    const seen = hubs.map((hub) => scene.inbox(hub, "Message"));
    await hubs[2].invoke("SendToUser", "for ann", `${scene.tag}ann`);
    await hubs[2].invoke("SendToUsers", "for both", [`${scene.tag}ann`, `${scene.tag}bob`]);
    scene.equal([await seen[0].next(), await seen[0].next()], ["for ann", "for both"]);
    scene.equal([await seen[1].next(), await seen[1].next()], ["for ann", "for both"]);
    scene.equal(await seen[2].next(), "for both");
});

test("a route reaches the clients of a hub", async (scene) => {
    const people = await three(scene);
    scene.equal(await scene.get(`/announce/${scene.tag}hello`), "sent");
    scene.equal(await seenBy(scene, people), ["hello", "hello", "hello"]);
});

test("a client answers the server", async (scene) => {
    const hub = await scene.connect();
    hub.on("Result", () => 10);
    scene.equal(await scene.get(`/clientresult/${hub.connectionId}`), "10");
});

test("a client answers the server later", async (scene) => {
    const hub = await scene.connect();
    hub.on("Result", async () => new Promise((resolve) => setTimeout(resolve, 50, 11)));
    scene.equal(await scene.get(`/clientresult/${hub.connectionId}`), "11");
});

test("a client's error reaches the server as it is", async (scene) => {
    const hub = await scene.connect();
    hub.on("Result", () => { throw new Error("from callback"); });
    scene.equal(await scene.get(`/clientresult/${hub.connectionId}`), "Error: from callback");
});

test("the server learns that a client has no answer", async (scene) => {
    const hub = await scene.connect();
    scene.equal(await scene.get(`/clientresult/${hub.connectionId}`), "Client didn't provide a result.");
});

test("an answer that does not fit fails the question and nothing else", async (scene) => {
    const hub = await scene.connect();
    hub.on("Result", () => "ten");
    const answer = await scene.get(`/clientresult/${hub.connectionId}`);
    scene.equal(answer !== "ten" && answer.length > 0, true);
    scene.equal(await hub.invoke("Echo", "still there"), "still there");
});

test("a method asks its caller and another client", async (scene) => {
    const [asker, other] = [await scene.connect("/testhub"), await scene.connect("/testhub")];
    asker.on("Question", (text) => `${text}: me`);
    other.on("Question", (text) => `${text}: another`);
    scene.equal(await asker.invoke("Ask", asker.connectionId, "who"), "who: me");
    scene.equal(await asker.invoke("Ask", other.connectionId, "who"), "who: another");
});

test("a question to a client that leaves fails", async (scene) => {
    const [asker, other] = [await scene.connect("/testhub"), await scene.connect("/testhub")];
    const asked = new Promise((resolve) => other.on("Question", () => new Promise(resolve)));
    const answer = asker.invoke("Ask", other.connectionId, "who").then(() => "an answer", () => "an error");
    await asked;
    await other.stop();
    scene.equal(await answer, "an error");
});
