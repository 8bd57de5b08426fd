"""Faults: which requests they befall, and what becomes of those."""

from __future__ import annotations

import random
import re
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from asyncstore.testing.s3_stub._conditions import find_range
from asyncstore.testing.s3_stub._content import Content
from asyncstore.testing.s3_stub._messages import Answer, Request, S3Error
from asyncstore.testing.s3_stub._objects import source_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncstore.testing.s3_stub._storage import Storage, StoredObject

__all__ = ["MEDDLING", "Action", "Fault", "FaultPlan", "meddle", "refusal", "spoil"]

Action: TypeAlias = Literal[
    "slow_down",
    "internal_error",
    "conflict",
    "lose_request",
    "lose_answer",
    "error_after",
    "truncate",
    "flip_bit",
    "stall",
    "wrong_range",
    "whole_for_range",
    "other_object",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """
    A rule: what happens to the requests that fit all that is given; what is not given fits every request.

    A request meets the first rule that strikes; each rule counts the requests that fit it by itself.
    """

    do: Action
    """
    Before the server acts: ``slow_down`` (503), ``internal_error`` (500), ``conflict`` (409
    ConditionalRequestConflict), ``lose_request`` (the connection closes).
    So that it acts on something else: ``wrong_range`` (another range than the one asked for, and told so, with its
    bytes), ``whole_for_range`` (200 and the whole object), ``other_object`` (the object, or what is to be copied, has
    been replaced in the middle of everything: one bit is turned for good, in the range that is asked for, and ETag and
    date are new; conditions are heeded as ever).
    After it has acted: ``lose_answer`` (the connection closes), ``error_after`` (500), ``truncate`` (the length of the
    whole body and half of its bytes, then the connection closes), ``flip_bit`` (one bit of the body is wrong),
    ``stall`` (no answer, and none to later requests of the connection).
    """

    method: str = ""
    """Such as ``PUT``."""

    operation: str = ""
    """S3's name for what is asked, such as ``ListObjectsV2``."""

    key: str = ""
    """A regular expression that is to be found in the key."""

    nth: int = 0
    """Strikes only the nth request that fits, from 1."""

    times: int = 0
    """Strikes that often at most; 0 is without end."""

    probability: float = 1.0
    """Chance to strike a request that fits."""

    seed: int = 0
    """Of the chance, which is the same at each run."""


@dataclass(slots=True)
class _Armed:
    fault: Fault
    key: re.Pattern[str] = field(init=False)
    chance: random.Random = field(init=False)
    fitting: int = 0
    struck: int = 0

    def __post_init__(self) -> None:
        self.key = re.compile(self.fault.key)
        self.chance = random.Random(self.fault.seed)

    def counts(self, request: Request) -> bool:
        """Tell whether a request fits, and count it then."""
        fits = self._fits(request)
        self.fitting += fits
        return fits

    def strikes(self) -> bool:
        """Tell whether the last request that fitted is struck."""
        fault = self.fault
        spent = bool(fault.times) and self.struck >= fault.times
        if spent or fault.nth not in (0, self.fitting) or self.chance.random() >= fault.probability:
            return False
        self.struck += 1
        return True

    def _fits(self, request: Request) -> bool:
        fault = self.fault
        if fault.method not in ("", request.method) or fault.operation not in ("", request.operation):
            return False
        return not fault.key or self.key.search(request.key) is not None


class FaultPlan:
    """
    The rules of a server, with what they have counted so far.

    Raises:
        ValueError: a key is not a regular expression.
    """

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        try:
            self._armed = [_Armed(fault) for fault in faults]
        except re.error as error:
            raise ValueError(f"a fault's key is not a regular expression: {error}") from error

    @property
    def faults(self) -> list[Fault]:
        """The rules."""
        return [armed.fault for armed in self._armed]

    def action_for(self, request: Request) -> Action | None:
        """Return what is to happen to a request, which is counted."""
        action: Action | None = None
        for armed in self._armed:
            if armed.counts(request) and action is None and armed.strikes():
                action = armed.fault.do
        return action


_ERRORS = {
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "internal_error": (500, "InternalError", "We encountered an internal error. Please try again."),
    "conflict": (409, "ConditionalRequestConflict", "A conflicting operation occurred during this request."),
    "error_after": (500, "InternalError", "We encountered an internal error. Please try again."),
}


def refusal(action: Action) -> Answer:
    """Return the error that takes the answer's place."""
    return S3Error(*_ERRORS[action]).answer


def spoil(answer: Answer) -> Answer:
    """Return the answer with one bit of its body turned, in the middle."""
    content = Content.of(answer.body) if isinstance(answer.body, bytes) else answer.body
    body = content.turned(content.size_bytes // 2) if content.size_bytes else content
    return Answer(answer.status, body, answer.headers)


MEDDLING = {"wrong_range", "whole_for_range", "other_object"}
"""Actions before which a request, or what it is about, is changed."""


def meddle(action: Action, storage: Storage, request: Request) -> None:
    """Change a request, or what it is about, so that carrying it out has the wanted effect."""
    if action == "whole_for_range":
        request.headers.pop("range", None)
        return
    named = source_name(request) if "x-amz-copy-source" in request.headers else (request.bucket, request.key)
    bucket = storage.buckets.get(named[0])
    found = bucket.objects.get(named[1]) if bucket else None
    if bucket is None or found is None:
        return
    if action == "other_object":
        bucket.put(named[1], _replaced(found, request))
    elif (span := _asked(request, found)) is not None:
        start, end = _elsewhere(*span, found.size_bytes)
        request.headers["range"] = f"bytes={start}-{end - 1}"


def _asked(request: Request, found: StoredObject) -> tuple[int, int] | None:
    name = "x-amz-copy-source-range" if "x-amz-copy-source" in request.headers else "range"
    return find_range(request.headers.get(name, ""), found.size_bytes)


def _replaced(found: StoredObject, request: Request) -> StoredObject:
    start, end = _asked(request, found) or (0, found.size_bytes)
    content = found.content.turned((start + end) // 2) if found.size_bytes else Content.of(b"other")
    return replace(found, content=content, etag=f'"{secrets.token_hex(16)}"', checksum="", modified=int(time.time()))


def _elsewhere(start: int, end: int, size_bytes: int) -> tuple[int, int]:
    """Return another range, as long as the given one if there is such a one."""
    length = end - start
    if start >= length:
        return start - length, start
    if end + length <= size_bytes:
        return end, end + length
    if start:
        return start - 1, end - 1
    return (1, end + 1) if end < size_bytes else (1, end) if length > 1 else (0, end)
