"""A server that knows nothing of sharing a port: a second copy of it dies with "Address already in use".

python3 server.py [HOST PORT], else HOST and PORT from the environment.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"hello from collide\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128


host, port = sys.argv[1:3] or (os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "3000"))
Server((host, int(port)), Handler).serve_forever()
