"""Canaries: secrets that must not turn up in anything that is logged, shown, raised or kept."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Canaries", "spellings"]


def spellings(secret: str) -> set[str]:
    """Return the ways in which a secret may turn up: as it is, quoted, escaped, in base64 at any offset, in hex."""
    raw = secret.encode()
    found = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
    found |= {json.dumps(secret)[1:-1], raw.hex(), secret.replace("&", "&amp;")}
    for offset in range(3):
        # Without what depends on the bytes beside it.
        whole = raw[(3 - offset) % 3 :]
        coded = base64.b64encode(whole[: len(whole) // 3 * 3]).decode()
        found |= {coded, coded.translate(str.maketrans("+/", "-_"))}
    return found


class Canaries(logging.Handler):
    """Everything that was seen, and the secrets that should not be in it."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self._secrets: dict[str, str] = {}
        self._seen: list[tuple[str, str]] = []

    def add(self, name: str, secret: str | None) -> None:
        """Take a secret; what was seen before counts as well."""
        assert secret
        assert len(secret) >= 12, "a shorter one would be found by chance"
        self._secrets[name] = secret

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a record of a logger: its message, its arguments, its traceback."""
        self.saw(f"log of {record.name}", f"{record.getMessage()} {record.msg} {record.args!r} {vars(record)!r}")
        if record.exc_info and record.exc_info[1] is not None:
            self.saw_error(f"log of {record.name}", record.exc_info[1])

    def saw(self, where: str, text: str | bytes) -> None:
        """Look at a text."""
        self._seen.append((where, text if isinstance(text, str) else text.decode("latin-1")))

    def saw_object(self, where: str, thing: object, *, pickled: bool = True) -> None:
        """Look at what an object shows of itself, and at what is kept of it."""
        self.saw(f"repr of {where}", f"{thing!r} {thing}")
        if isinstance(thing, BaseModel):
            self.saw(f"JSON of {where}", thing.model_dump_json())
            self.saw(f"dump of {where}", f"{thing.model_dump()!r}")
        if pickled:
            self._saw_pickle(where, thing)

    def saw_error(self, where: str, error: BaseException) -> None:
        """Look at an error and all behind it that a traceback shows: texts, attributes, notes, pickles."""
        self.saw(f"traceback of {where}", "".join(traceback.format_exception(error)))
        left, known = [error], set()
        while left:
            found = left.pop()
            if id(found) in known:
                continue
            known.add(id(found))
            notes = getattr(found, "__notes__", ())
            self.saw(f"{type(found).__name__} of {where}", f"{found} {found!r} {found.args!r} {vars(found)!r} {notes}")
            self._saw_pickle(f"{type(found).__name__} of {where}", found)
            left += [] if found.__cause__ is None else [found.__cause__]
            left += [] if found.__context__ is None or found.__suppress_context__ else [found.__context__]
            left += getattr(found, "exceptions", ())

    def found(self) -> list[str]:
        """Return which secrets were seen, and where."""
        return sorted(
            {
                f"{name} in {where}: …{text[max(0, text.index(written) - 100) : text.index(written) + 60]}…"
                for name, secret in self._secrets.items()
                for written in spellings(secret)
                for where, text in self._seen
                if written in text
            }
        )

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear all loggers at their lowest level within the block, whatever they were set to."""
        loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
        levels = [(logger, logger.level, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.NOTSET if logger is not logging.root else 1)
            logger.propagate = True
        logging.root.addHandler(self)
        try:
            yield
        finally:
            logging.root.removeHandler(self)
            for logger, level, propagate in levels:
                logger.setLevel(level)
                logger.propagate = propagate

    @contextmanager
    def raising(self, where: str, kind: type[BaseException]) -> Iterator[None]:
        """Expect the block to raise, and look at what."""
        try:
            yield
        except kind as error:
            self.saw_error(where, error)
        else:
            raise AssertionError(f"{where}: nothing was raised")

    def _saw_pickle(self, where: str, thing: object) -> None:
        # Whatever cannot be pickled is kept nowhere.
        with suppress(Exception):
            for protocol in (0, pickle.HIGHEST_PROTOCOL):
                self.saw(f"pickle of {where}", pickle.dumps(thing, protocol))
