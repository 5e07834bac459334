"""Answers each request with its pid, and keeps a connection that has asked for /hold until its client closes it.

On TERM it stops accepting, and ends when no connection is left. `server.py FD` serves on an inherited socket,
`server.py HOST PORT` binds one of its own with SO_REUSEPORT.
"""

import os
import signal
import socket
import sys
import threading


def listener():
    if len(sys.argv) == 2:
        return socket.socket(fileno=int(sys.argv[1]))
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((sys.argv[1], int(sys.argv[2])))
    listening.listen(128)
    return listening


def serve(client):
    with client:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(4096)
            if not piece:
                return
            head += piece
        client.sendall(b"HTTP/1.1 200 OK\r\nX-Pid: %d\r\nContent-Length: 0\r\n\r\n" % os.getpid())
        while b"/hold" in head and client.recv(4096):
            pass


listening = listener()
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
while True:
    threading.Thread(target=serve, args=(listening.accept()[0],)).start()
