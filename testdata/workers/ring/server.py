"""Waits on the socket that it inherits, once there is a file named "open". It has an io_uring from its start on, as libuv's
event loop does, and waits by epoll, or by the ring itself: `server.py FD epoll|ring`."""

import ctypes
import mmap
import os
import selectors
import signal
import socket
import struct
import sys
import time

IO_URING_SETUP, IO_URING_ENTER = 425, 426
IORING_OFF_SQES, IORING_OP_ACCEPT = 0x10000000, 13
SQ_TAIL, SQ_ARRAY = 44, 64  # where `struct io_uring_params` has their offsets

libc = ctypes.CDLL(None, use_errno=True)
params = ctypes.create_string_buffer(120)
ring = libc.syscall(IO_URING_SETUP, 8, params)
print("rings:", int(ring >= 0), flush=True)
while not os.path.exists("open"):
    time.sleep(0.01)

fd = int(sys.argv[1])
if sys.argv[2] == "epoll" or ring < 0:
    selector = selectors.EpollSelector()
    selector.register(socket.socket(fileno=fd), selectors.EVENT_READ)
    signal.pause()

(tail,), (array,) = (struct.unpack_from("I", params.raw, at) for at in (SQ_TAIL, SQ_ARRAY))
queue = mmap.mmap(ring, array + 8 * 4, mmap.MAP_SHARED)
entries = mmap.mmap(ring, 8 * 64, mmap.MAP_SHARED, offset=IORING_OFF_SQES)
struct.pack_into("BBHi", entries, 0, IORING_OP_ACCEPT, 0, 0, fd)
struct.pack_into("I", queue, array, 0)
struct.pack_into("I", queue, tail, 1)
libc.syscall(IO_URING_ENTER, ring, 1, 1, 1, None, 0)
