"""Small web servers on this machine, in place of those that the library asks."""

import hashlib
import io
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from selfatt_lib.data import vectors


@contextmanager
def serve(respond):
    """Answer each request with ``respond(method, path, number)``.

    It returns a status, headers and a body: bytes, or an iterable of bytes whose length
    is among the headers. Yield the address and the paths asked for.
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


def glove_text():
    """Vectors as GloVe writes them: the first numbers of three words are 1, 2 and 3."""
    words = ["the", "movie", "café", *(f"word{i}" for i in range(4, 301))]
    lines = [
        f"{word} {' '.join(f'{i + n / 100:.2f}' for n in range(100))}\n"
        for i, word in enumerate(words, 1)
    ]
    return "".join(lines).encode()


def glove_archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("glove.6B.100d.txt", glove_text())
    return stream.getvalue()


def use_glove(monkeypatch, address, archive):
    """Let `load_vectors` download this archive from this address."""
    registry = {"glove.6B.zip": f"sha256:{sha256(archive)}"}
    source = {"base_url": f"{address}/", "registry": registry}
    monkeypatch.setattr(vectors, "GLOVE_ARCHIVE", source)
