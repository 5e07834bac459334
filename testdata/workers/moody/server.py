"""Answers 503 on every path until there is a file `open` in its directory, and says each time over which connection.

python3 server.py FD VERSION; with HTTP/1.1 connections are kept, with HTTP/1.0 each answer ends one.
"""

import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Moody(BaseHTTPRequestHandler):
    protocol_version = sys.argv[2]

    def do_GET(self):
        status = 200 if os.path.exists("open") else 503
        print(f"asked pid={os.getpid()} port={self.client_address[1]} status={status}", flush=True)
        self.send_response(status)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"moody")

    def log_message(self, *_):
        pass


class Inherited(ThreadingHTTPServer):
    def server_bind(self):
        self.socket.close()
        self.socket = socket.socket(fileno=int(sys.argv[1]))

    def server_activate(self):
        pass


Inherited(("", 0), Moody).serve_forever()
