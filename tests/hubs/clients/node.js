// Runs the cases under Node: reads the setting from standard input, writes the results.
"use strict";

const path = require("node:path");
const fs = require("node:fs");

const modules = process.argv[2];
const libraries = {
    HttpConnection: require(path.join(modules, "@microsoft/signalr/dist/cjs/HttpConnection")).HttpConnection,
    signalR: require(path.join(modules, "@microsoft/signalr")),
    msgpack: require(path.join(modules, "@microsoft/signalr-protocol-msgpack")),
};
const setting = JSON.parse(fs.readFileSync(0, "utf8"));

require("./harness.js");
for (const file of setting.files) require(file);

// What nobody catches is a fault of the client or of a case; it must not pass unseen.
process.on("unhandledRejection", (error) => {
    console.error(error);
    process.exitCode = 1;
});

runTests({ ...setting, place: "node" }, libraries).then((results) => {
    process.stdout.write(JSON.stringify(results), () => process.exit());
});
