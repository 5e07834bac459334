"""A server that binds by itself, shares its port, and drains: everything that can be asked of one without a manager.

python3 server.py [HOST PORT], else HOST and PORT from the environment.

On TERM it takes what waits in its queue, answers it, and leaves. A connection that the kernel gives it between its last
look and its close is lost all the same: that is what no worker can mend by itself.
"""

import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"hello from selfbind\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Arlen-Worker-Pid", str(os.getpid()))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)

    def serve_waiting(self):
        self.socket.setblocking(False)
        while True:
            try:
                request, address = self.get_request()
            except BlockingIOError:
                return
            request.setblocking(True)
            self.process_request(request, address)


def main():
    host, port = sys.argv[1:3] or (os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "3000"))
    server = Server((host, int(port)), Handler)
    # shutdown() waits for the loop that this handler interrupts, so it needs a thread of its own.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.05)
    server.serve_waiting()
    server.server_close()


main()
