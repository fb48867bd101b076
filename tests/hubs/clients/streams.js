// Streams to the client and from it, their errors, and their ends before time.
"use strict";

const BROKEN = "An unexpected error occurred invoking 'StreamingConcat' on the server. HubException: Something bad";
const RAISED = "An error occurred on the server while streaming results.";

test("items arrive in their order", async (scene) => {
    const hub = await scene.connect();
    scene.equal(await scene.collect(hub.stream("Stream")), ["a", "b", "c"]);
    scene.equal(await scene.collect(hub.stream("EmptyStream")), []);
    const numbers = Array.from({ length: 1000 }, (_, index) => index);
    scene.equal(await scene.collect(hub.stream("Counter", 1000, 0)), numbers);
});

test("several streams run at the same time and do not stop calls", async (scene) => {
    const hub = await scene.connect();
    const streams = [1, 2, 3].map((count) => scene.collect(hub.stream("Counter", 20 * count, 0.001)));
    scene.equal(await hub.invoke("Echo", "x"), "x");
    scene.equal((await Promise.all(streams)).map((items) => items.length), [20, 40, 60]);
});

test("a stream that is cancelled ends on the server", async (scene) => {
    const hub = await scene.connect();
    const cancelled = scene.inbox(hub, "StreamCanceled");
    hub.stream("InfiniteStream").subscribe({ next() {}, complete() {}, error() {} }).dispose();
    await cancelled.next();
    scene.equal(await hub.invoke("Echo", "still there"), "still there");
});

test("a stream can be cancelled between two items", async (scene) => {
    const hub = await scene.connect();
    const cancelled = scene.inbox(hub, "StreamCanceled");
    let subscription;
    const items = [];
    await new Promise((resolve, reject) => {
        const next = (item) => items.push(item) === 3 && (subscription.dispose(), resolve());
        subscription = hub.stream("Ticks").subscribe({ next, complete() {}, error: reject });
    });
    await cancelled.next();
    scene.equal(items, [0, 1, 2]);
});

test("a stream ends on the server when its client leaves", async (scene) => {
    const [leaver, observer] = [await scene.connect(), await scene.connect()];
    const gone = scene.inbox(observer, "Gone");
    await observer.invoke("WatchFor", scene.tag);
    await new Promise((next) => leaver.stream("LeftBehind", scene.tag).subscribe({ next, complete() {}, error() {} }));
    await leaver.stop();
    scene.equal(await gone.next(), scene.tag);
});

test("an error before the first item has the text of a call", async (scene) => {
    const hub = await scene.connect();
    await scene.rejects(
        scene.collect(hub.stream("StreamThrowException", "An error occurred.")),
        "An unexpected error occurred invoking 'StreamThrowException' on the server. InvalidOperationException: An error occurred.",
    );
});

test("an error among the items comes after them", async (scene) => {
    for (const [path, text] of [["/testhub", `${RAISED} InvalidOperationException: Out of numbers.`], ["/plainhub", RAISED]]) {
        const hub = await scene.connect(path);
        const items = [];
        const end = new Promise((resolve, reject) => {
            hub.stream("CountAndFail", 3).subscribe({ next: (item) => items.push(item), complete: resolve, error: reject });
        });
        await scene.rejects(end, text);
        scene.equal(items, [0, 1, 2]);
    }
});

test("a stream must be asked for as one and a call as a call", async (scene) => {
    const hub = await scene.connect();
    for (const name of ["Stream", "EmptyStream"]) {
        await scene.rejects(
            hub.invoke(name),
            `The client attempted to invoke the streaming '${name}' method with a non-streaming invocation.`,
        );
    }
    await scene.rejects(
        scene.collect(hub.stream("Echo", "42")),
        "The client attempted to invoke the non-streaming 'Echo' method with a streaming invocation.",
    );
});

test("items go up in their order", async (scene) => {
    const hub = await scene.connect();
    const subject = new scene.signalR.Subject();
    const answer = hub.invoke("StreamingConcat", subject);
    for (const item of ["Hello ", "world", "!"]) subject.next(item);
    subject.complete();
    scene.equal(await answer, "Hello world!");
});

test("a stream may go up that holds nothing", async (scene) => {
    const hub = await scene.connect();
    const subject = new scene.signalR.Subject();
    const answer = hub.invoke("StreamingConcat", subject);
    subject.complete();
    scene.equal(await answer, "");
});

test("an error of the client's stream reaches the method", async (scene) => {
    const hub = await scene.connect();
    const subject = new scene.signalR.Subject();
    const answer = hub.invoke("StreamingConcat", subject);
    subject.next("Hello");
    subject.error(new Error("Something bad"));
    await scene.rejects(answer, BROKEN);
    scene.equal(await hub.invoke("Echo", "still there"), "still there");
});

test("a slow reader loses nothing of a long stream", async (scene) => {
    const hub = await scene.connect();
    const subject = new scene.signalR.Subject();
    const answer = hub.invoke("SlowSum", subject, 10);
    for (let number = 1; number <= 40; number++) subject.next(number);
    subject.complete();
    scene.equal(await answer, 40 * 41 / 2);
});

test("two streams go up in one call, beside arguments", async (scene) => {
    const hub = await scene.connect();
    const [words, numbers] = [new scene.signalR.Subject(), new scene.signalR.Subject()];
    const answer = hub.invoke("Zip", words, ":", numbers);
    for (const [index, word] of ["a", "b", "c"].entries()) {
        words.next(word);
        numbers.next(index);
    }
    numbers.complete();
    words.complete();
    scene.equal(await answer, ["a:0", "b:1", "c:2"]);
});

test("a stream goes up and down in one call", async (scene) => {
    const hub = await scene.connect();
    const subject = new scene.signalR.Subject();
    const answer = scene.collect(hub.stream("EchoStream", subject));
    for (let number = 0; number < 20; number++) subject.next(number);
    subject.complete();
    scene.equal(await answer, Array.from({ length: 20 }, (_, index) => index));
});

test("an item that does not fit ends its stream and nothing else", async (scene) => {
    const hub = await scene.connect();
    const subject = new scene.signalR.Subject();
    const answer = hub.invoke("SlowSum", subject, 0);
    subject.next(1);
    subject.next("two");
    await answer.then(() => { throw new Error("no error"); }, (error) => {
        const begin = "An unexpected error occurred invoking 'SlowSum' on the server.";
        scene.equal(error.message.slice(0, begin.length), begin);
    });
    scene.equal(await hub.invoke("Echo", "still there"), "still there");
});

test("a method may leave a stream unread", async (scene) => {
    const hub = await scene.connect();
    const subject = new scene.signalR.Subject();
    const answer = hub.invoke("FirstOf", subject);
    subject.next("first");
    scene.equal(await answer, "first");
    for (let number = 0; number < 20; number++) {
        subject.next("more");
        scene.equal(await hub.invoke("EchoAny", number), number);
    }
    await hub.invoke("Nothing"); // behind the last item, which the client must not send too late
});
