"""A WSGI app: gunicorn --bind fd://3 --chdir DIRECTORY app:app"""

import os


def app(environ, start_response):
    body = b"hello from gunicorn\n"
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("X-Arlen-Worker-Pid", str(os.getpid())),
    ]
    start_response("200 OK", headers)
    return [body]
