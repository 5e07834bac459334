"""The WSGI app that gunicorn and uWSGI serve, by themselves and under propane: it names the process that answers."""

import os


def application(environ, start_response):
    body = b"%d\n" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
