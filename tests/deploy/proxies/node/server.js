// socket.io as on any Node server; says which port it got. An echo says by which transport it came.
const { createServer } = require("http");
const { Server } = require("socket.io");

const server = createServer();
new Server(server).on("connection", (socket) => {
  socket.on("echo", (message, answer) => answer(message, socket.conn.transport.name));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
