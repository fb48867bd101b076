// The service's own hub, called by Microsoft's client; see clients/harness.js.
"use strict";

const PATH = "/hub";
const failed = (method, text) =>
    `An unexpected error occurred invoking '${method}' on the server. HubException: ${text}`;

test("Echo gives back the text", async (scene) => {
    const hub = await scene.connect(PATH);
    for (const text of ["Grüße 👋", "", "x".repeat(30_000)]) scene.equal(await hub.invoke("Echo", text), text);
});

test("Broadcast reaches everyone, the caller too", async (scene) => {
    const hubs = [await scene.connect(PATH), await scene.connect(PATH)];
    const text = `to all ${scene.tag}`;
    const heard = hubs.map((hub) => new Promise((resolve) => {
        hub.on("Message", (each) => each === text && resolve(each));
    }));
    scene.equal(await hubs[0].invoke("Broadcast", text), undefined);
    scene.equal(await Promise.all(heard), [text, text]);
});

test("BroadcastTo reaches who is in the group, and no longer who left", async (scene) => {
    const [caller, member] = [await scene.connect(PATH), await scene.connect(PATH)];
    const inboxes = [caller, member].map((hub) => scene.inbox(hub, "Message"));
    const own = (inbox) => inbox.received.filter((text) => text.endsWith(scene.tag));
    await member.invoke("Join", scene.tag);
    await caller.invoke("BroadcastTo", scene.tag, `1 ${scene.tag}`);
    await scene.until(() => own(inboxes[1]).length === 1);
    await member.invoke("Leave", scene.tag);
    await caller.invoke("BroadcastTo", scene.tag, `2 ${scene.tag}`);
    await member.invoke("Echo", "all that was sent before has come");
    scene.equal(inboxes.map((inbox) => own(inbox)), [[], [`1 ${scene.tag}`]]);
});

test("a client is in 16 groups at most", async (scene) => {
    const hub = await scene.connect(PATH);
    for (let number = 1; number <= 16; number += 1) await hub.invoke("Join", `${scene.tag} ${number}`);
    await hub.invoke("Join", `${scene.tag} 1`);
    await scene.rejects(hub.invoke("Join", scene.tag), failed("Join", "You are in 16 groups: leave one first."));
    await hub.invoke("Leave", `${scene.tag} 1`);
    await hub.invoke("Join", scene.tag);
});

test("a group's name is neither empty nor long", async (scene) => {
    const hub = await scene.connect(PATH);
    for (const name of ["", "x".repeat(65)]) {
        await scene.rejects(hub.invoke("Join", name), failed("Join", "A group's name has 1 to 64 characters."));
    }
});

test("Countdown streams down to 0", async (scene) => {
    const hub = await scene.connect(PATH);
    scene.equal(await scene.collect(hub.stream("Countdown", 2)), [2, 1, 0]);
    scene.equal(await scene.collect(hub.stream("Countdown", 0)), [0]);
});

test("Countdown is bounded", async (scene) => {
    const hub = await scene.connect(PATH);
    for (const start of [-1, 1001]) {
        await scene.rejects(scene.collect(hub.stream("Countdown", start)),
            "An error occurred on the server while streaming results. "
            + "HubException: Count down from a number between 0 and 1000.");
    }
});

test("Collect gives back the items", async (scene) => {
    const hub = await scene.connect(PATH);
    for (const items of [[], ["one", "", "drei"]]) {
        const subject = new scene.signalR.Subject();
        const result = hub.invoke("Collect", subject);
        for (const item of items) subject.next(item);
        subject.complete();
        scene.equal(await result, items);
    }
});

test("Collect is bounded in items and characters", async (scene) => {
    const hub = await scene.connect(PATH);
    const many = Array(scene.transport === "WebSockets" ? 1001 : 0).fill("x"); // or each is a POST
    for (const items of [many, Array(3).fill("x".repeat(30_000))].filter((each) => each.length)) {
        const subject = new scene.signalR.Subject();
        const result = hub.invoke("Collect", subject);
        for (const item of items) subject.next(item);
        await scene.rejects(result, failed("Collect", "Send at most 1000 items with 65536 characters in all."));
    }
});

test("Ask gives the other client's answer", async (scene) => {
    const [asking, asked] = [await scene.connect(PATH), await scene.connect(PATH)];
    asked.on("Answer", async (question) => `${question} Fine.`);
    scene.equal(await asking.invoke("Ask", asked.connectionId, "How are you?"), "How are you? Fine.");
});

test("Ask says why there is no answer", async (scene) => {
    const [asking, asked] = [await scene.connect(PATH), await scene.connect(PATH)];
    await scene.rejects(asking.invoke("Ask", "nobody", "?"), failed("Ask", "Nobody with that connection id is here."));
    await scene.rejects(asking.invoke("Ask", asked.connectionId, "?"), failed("Ask", "Client didn't provide a result."));

    let questioned;
    const question = new Promise((resolve) => (questioned = resolve));
    asked.on("Answer", () => new Promise(questioned));
    const answer = asking.invoke("Ask", asked.connectionId, "?");
    await question;
    await asked.stop();
    await scene.rejects(answer, failed("Ask", "Nobody with that connection id is here."));
});

test("a client waits for 8 answers at most", async (scene) => {
    const [asking, asked] = [await scene.connect(PATH), await scene.connect(PATH)];
    const answers = [];
    asked.on("Answer", () => new Promise((resolve) => answers.push(resolve)));
    const asks = Array.from({ length: 8 }, () => asking.invoke("Ask", asked.connectionId, "?"));
    await scene.until(() => answers.length === 8);
    await scene.rejects(asking.invoke("Ask", asked.connectionId, "?"),
        failed("Ask", "Wait: 8 of your questions have no answer yet."));
    for (const resolve of answers) resolve("!");
    scene.equal(await Promise.all(asks), Array(8).fill("!"));
});
