"""Small web servers on this machine, in place of the ones that the library downloads from."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serve(respond):
    """Answer each request with ``respond(method, path, number) -> (status, headers, body)``; yield the address and the paths asked for.

    A body is bytes, or an iterable of bytes whose length is among the headers.
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            asked.append(self.path)
            status, headers, body = respond(self.command, self.path, len(asked))
            self.send_response(status)
            if isinstance(body, bytes):
                headers = {"Content-Length": str(len(body))} | headers
                body = [body]
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.writelines(body)

        do_GET = do_HEAD = answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sha256(content):
    return hashlib.sha256(content).hexdigest()
