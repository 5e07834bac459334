"""A WebSocket client with a mind of its own: speaks to the URL, and says what happens, one line at a time.

Holds one connection open until the server ends it. Between "open" and that, a second connection shows whether there is
room for another.
"""

import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect


def say(*words):
    print(*words, flush=True)


def try_another(url):
    try:
        with connect(url) as second:
            second.send("second")
            say("second", second.recv())
    except InvalidStatus as refusal:
        answer = refusal.response
        reason = answer.headers["X-Arlen-Backpressure-Reason"]
        say("refused", answer.status_code, reason, answer.headers["Retry-After"], answer.body.decode().strip())


def main(url):
    with connect(url) as connection:
        for message in ("hello", b"\x00\xff" * 40_000, "ä" * 1000):
            connection.send(message)
            assert connection.recv() == message
        connection.ping().wait(10)
        try_another(url)
        say("open")
        try:
            connection.recv(timeout=60)
        except ConnectionClosed as end:
            say("closed", end.rcvd.code, end.rcvd.reason)
    # The place is free again: a full handshake, and an orderly end from this side.
    try_another(url)


main(sys.argv[1])
