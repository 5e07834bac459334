"""Becomes a program with listening sockets handed over, as a service manager does it (sd_listen_fds(3)).

The sockets come as SCM_RIGHTS over standard input. LISTEN_FDS and LISTEN_PID are set unless they are set already.
"""

import fcntl
import os
import socket
import sys

_, received, _, _ = socket.recv_fds(socket.socket(fileno=os.dup(0)), 1, 64)
# Out of the way of the numbers that they are to have.
moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in received]
for fd in received:
    os.close(fd)
for number, fd in enumerate(moved, 3):
    os.dup2(fd, number, inheritable=True)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.environ.setdefault("LISTEN_FDS", str(len(moved)))
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
