"""A worker that ignores the socket that it is given.

    server.py ready|silent [HOST PORT]

`ready` says so on NOTIFY_SOCKET. With HOST and PORT it closes fd 3 and listens there by itself.
"""

import os
import signal
import socket
import sys

if len(sys.argv) > 2:
    if "LISTEN_FDS" in os.environ:
        os.close(3)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((sys.argv[2], int(sys.argv[3])))
    listener.listen()
if sys.argv[1] == "ready":
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
