// Runs the cases under Node, those of all settings at the same time: reads the settings from
// standard input, writes the results of each.
"use strict";

const path = require("node:path");
const fs = require("node:fs");

const modules = process.argv[2];
const libraries = {
    HttpConnection: require(path.join(modules, "@microsoft/signalr/dist/cjs/HttpConnection")).HttpConnection,
    signalR: require(path.join(modules, "@microsoft/signalr")),
    msgpack: require(path.join(modules, "@microsoft/signalr-protocol-msgpack")),
};
const { files, settings } = JSON.parse(fs.readFileSync(0, "utf8"));

require("./harness.js");
for (const file of files) require(file);

// A client that is stopped leaves the errors of what it still sends to nobody. Each case tells of
// its own failure.
process.on("unhandledRejection", () => {});

Promise.all(settings.map((setting) => runTests({ ...setting, place: "node" }, libraries))).then((results) => {
    process.stdout.write(JSON.stringify(results), () => process.exit());
});
