// node client.js URL TRANSPORTS...: says by which transport the server got each client's message.
//
// A client that may poll and upgrade asks once it has upgraded, which may be before it connects.
const { io } = require("socket.io-client");

const [url, ...clients] = process.argv.slice(2);

for (const client of clients) {
  const transports = client.split(",");
  const socket = io(url, { transports, forceNew: true, reconnection: false, timeout: 10000 });

  function ask() {
    socket.emit("echo", client, (message, transport) => {
      console.log(message, transport);
      socket.close();
    });
  }

  socket.on("connect", () => {
    const engine = socket.io.engine;
    if (engine.transport.name === transports.at(-1)) ask();
    else engine.on("upgrade", ask);
  });
  socket.on("connect_error", (error) => console.error(client, String(error)));
}
