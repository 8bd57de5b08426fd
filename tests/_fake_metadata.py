"""A plain server for what hands out credentials by HTTP: containers, instances, single sign-on."""

from __future__ import annotations

import json
from typing import Any

from tests._fake_server import FakeHandler, FakeServer

__all__ = ["FakeMetadata"]


class FakeMetadata(FakeServer):
    """
    Hands out what a test wants; see :class:`FakeServer`.

    Attributes:
        answers: what is there, by path without its query: text, or what is answered as JSON, or what makes it; anything
            else is not found.
        asked: the path and the headers, in lower case, of each request.
    """

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[tuple[str, dict[str, str]]] = []

    def handler(self) -> type[FakeHandler]:
        """Return what answers; see :class:`FakeServer`."""
        metadata = self

        class Handler(FakeHandler):
            def do_GET(self) -> None:
                metadata.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                found = metadata.answers.get(self.path.partition("?")[0])
                found = found() if callable(found) else found
                self.say(404 if found is None else 200, found if isinstance(found, str) else json.dumps(found))

            def do_PUT(self) -> None:
                self.do_GET()

        return Handler
