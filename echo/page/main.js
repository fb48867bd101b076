const log = (line) => { document.querySelector("#log").textContent += line + "\n"; };
const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
socket.onopen = () => { document.querySelector("#state").textContent = "Open"; };
socket.onmessage = (event) => log(`Server: ${event.data}`);
socket.onclose = (event) => log(`Connection closed. Code: ${event.code}. Reason: ${event.reason}`);
document.querySelector("#form").onsubmit = (event) => {
  event.preventDefault();
  socket.send(document.querySelector("#text").value);
};
