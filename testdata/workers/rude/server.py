"""A worker that cannot be changed, like Arlen's: its own SO_REUSEPORT socket, a thread that blocks in accept(), and no
drain at all. On TERM it closes and exits at once, whatever waits in its queue or is being answered.

python3 server.py [HOST PORT [MILLISECONDS]], else HOST, PORT and RUDE_DELAY_MS from the environment. The milliseconds
are what each request takes.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
import time

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {}\r\nX-Pid: " + str(os.getpid()) + "\r\n\r\n"
BODY = b"hello from rude\n"


def requests(connection):
    """The heads of the requests on a connection, one at a time; the requests have no bodies."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            more = connection.recv(65536)
            if not more:
                return
            received += more
        head, _, received = received.partition(b"\r\n\r\n")
        yield head.lower()


def serve(connection, seconds):
    with connection:
        try:
            for head in requests(connection):
                time.sleep(seconds)
                last = b"connection: close" in head
                answer = HEAD.format(len(BODY), "close" if last else "keep-alive")
                connection.sendall(answer.encode() + BODY)
                if last:
                    return
        except ConnectionError:
            pass


def listen(host, port):
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen(128)
    return listener


def accept(listener, seconds):
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection, seconds), daemon=True).start()


def main():
    words = sys.argv[1:]
    host = words[0] if words else os.environ.get("HOST", "127.0.0.1")
    port = int(words[1] if len(words) > 1 else os.environ.get("PORT", "3000"))
    delay_ms = float(words[2] if len(words) > 2 else os.environ.get("RUDE_DELAY_MS", "2"))

    # RUDE_ALSO is a second address to listen on.
    listeners = [listen(address, port) for address in [host, os.environ.get("RUDE_ALSO")] if address]
    signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("RUDE_DEAF") else lambda *_: os._exit(0))
    # As a program that changes its user does: then its sockets cannot be borrowed without a capability.
    if os.environ.get("RUDE_UNDUMPABLE"):
        ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
    # As a program that wants to outlive its parent does.
    if os.environ.get("RUDE_OUTLIVES"):
        ctypes.CDLL(None).prctl(1, 0)  # PR_SET_PDEATHSIG
    print(f"rude listening on http://{host}:{port}", flush=True)
    for listener in listeners[1:]:
        threading.Thread(target=accept, args=(listener, delay_ms / 1000), daemon=True).start()
    accept(listeners[0], delay_ms / 1000)


main()
