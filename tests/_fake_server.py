"""Plain HTTP servers that say what a test wants."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

__all__ = ["FakeHandler", "FakeServer"]


class FakeHandler(BaseHTTPRequestHandler):
    """Answers requests, and prints nothing of them."""

    protocol_version = "HTTP/1.1"

    def say(self, status: int, text: str, content_type: str = "") -> None:
        """Answer with a text."""
        body = text.encode()
        self.send_response(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class FakeServer:
    """Listens on 127.0.0.1 within a ``with`` block, and answers in threads of its own."""

    def handler(self) -> type[FakeHandler]:
        """Return what answers."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"
