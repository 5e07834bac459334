// A Node server as one would write it for a manager: it listens on the descriptor it is given, or on HOST and PORT.
//
//   node server.js [FD]

const http = require("node:http");

let draining = false;

const server = http.createServer((request, response) => {
  if (draining) response.setHeader("Connection", "close");
  response.setHeader("X-Arlen-Worker-Pid", process.pid);
  response.end("hello from node\n");
});

const fd = process.argv[2];
if (fd) {
  server.listen({ fd: Number(fd) });
} else {
  server.listen({ host: process.env.HOST ?? "127.0.0.1", port: Number(process.env.PORT ?? 3000) });
}

// Accept no more, answer what has been accepted, then leave; the queue stays with whoever else holds the socket.
process.on("SIGTERM", () => {
  draining = true;
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
