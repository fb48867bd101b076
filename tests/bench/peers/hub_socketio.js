// The hub's methods in socket.io of Node.js.
"use strict";

const { Server } = require("socket.io");

const server = new Server({ serveClient: false });

server.on("connection", (socket) => {
  socket.on("echo", (text, answer) => answer(text));
  socket.on("broadcast", (text) => server.emit("message", text));
});

server.listen(Number(process.argv[2]));
