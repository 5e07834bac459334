// The node app that pm2 and propane serve: it names the process that answers. `server.js fd` listens on that descriptor,
// otherwise on $PORT. It stops as node servers should: no new connections, and an end when the last answer is out.
const { createServer } = require('node:http');

const server = createServer((request, response) => {
  const body = `${process.pid}\n`;
  response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
  response.end(body);
});
const stop = () => server.close(() => process.exit(0));
process.on('SIGTERM', stop);
process.on('SIGINT', stop);

const fd = Number(process.argv[2]);
const where = fd ? { fd } : { host: '127.0.0.1', port: Number(process.env.PORT) };
// pm2 waits for this word (`wait_ready`).
server.listen(where, () => process.send?.('ready'));
