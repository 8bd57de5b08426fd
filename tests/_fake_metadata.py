"""A plain server for what hands out credentials by HTTP: containers, instances, single sign-on."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["FakeMetadata"]


class FakeMetadata:
    """
    Listens on 127.0.0.1 within a ``with`` block.

    Attributes:
        answers: what is there, by path without its query: text, or what is answered as JSON, or what makes it; anything
            else is not found.
        asked: the path and the headers, in lower case, of each request.
    """

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __enter__(self) -> Self:
        metadata = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                metadata.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                found = metadata.answers.get(self.path.partition("?")[0])
                found = found() if callable(found) else found
                text = found if isinstance(found, str) else json.dumps(found)
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def do_PUT(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
