"""JSON as every backend can hold it: compact text, within limits, nothing that readers refuse. Pure functions."""

from __future__ import annotations

import json
import re
from typing import Any

from asyncstore.errors import IntegrityError, InvalidValueError

__all__ = ["checked", "dump_json", "parse_json", "reason"]

FRAGMENT_LIMIT_BYTES = 16 * 1024 * 1024
"""Largest fragment: what all supported databases and a single PUT carry without special settings."""

DEPTH_LIMIT = 100
"""Deepest nesting of a fragment's JSON: parsers of other tools give up not far above it."""

INTEGER_LIMIT_DIGITS = 4300
"""Longest integer that Python parses (``sys.int_info.default_max_str_digits``)."""

_LONG_INTEGER = re.compile(rb"\d{%d}" % INTEGER_LIMIT_DIGITS)


def dump_json(value: object) -> bytes:
    """Write parsed JSON as compact text; escapes what is not ASCII, so that anything parsed can be written again."""
    return json.dumps(value, separators=(",", ":")).encode()


def parse_json(text: bytes | str, what: str) -> Any:
    """
    Parse stored JSON text.

    Raises:
        IntegrityError: it is not JSON; ``what`` says in the message what was read.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is not readable JSON: {error}") from error


def checked(body: bytes, kind: str, name: str) -> bytes:
    """
    Return JSON text that every backend can hold.

    Raises:
        InvalidValueError: it cannot; the message names what it is of.
    """
    if (
        len(body) <= INTEGER_LIMIT_DIGITS
        # A search for one byte takes half of the time of one for several.
        and not (b"N" in body and b"NaN" in body)
        and not (b"I" in body and b"Infinity" in body)
        and not (b"\\" in body and b"\\u0000" in body)
        and body.count(b"[") + body.count(b"{") <= DEPTH_LIMIT
    ):
        return body
    what = f"{kind} {name!r}"
    if len(body) > FRAGMENT_LIMIT_BYTES:
        raise InvalidValueError(
            f"{what} is {len(body):,} bytes of JSON, over the limit of {FRAGMENT_LIMIT_BYTES:,}: "
            "put large values into the catalog and keep their name"
        )
    if b"\\u0000" in body and _holds(body, "\x00"):
        raise InvalidValueError(f"{what} holds a NUL character, which SQL databases cannot store")
    if len(body) > INTEGER_LIMIT_DIGITS and _LONG_INTEGER.search(body):
        _refuse_long_integers(body, what)
    if b"NaN" in body or b"Infinity" in body:
        _refuse_constants(body, what)
    if body.count(b"[") + body.count(b"{") > DEPTH_LIMIT and _depth(body) > DEPTH_LIMIT:
        raise InvalidValueError(f"{what} is nested more than {DEPTH_LIMIT} levels deep")
    return body


def reason(error: Exception) -> str:
    text = str(error).removeprefix("Error serializing to JSON: ")
    return text.splitlines()[0][:200] if text else type(error).__name__


def _refuse_long_integers(body: bytes, what: str) -> None:
    try:
        json.loads(body)
    except ValueError as error:
        raise InvalidValueError(
            f"{what} holds an integer of over {INTEGER_LIMIT_DIGITS} digits, which readers refuse: store it as text"
        ) from error


def _refuse_constants(body: bytes, what: str) -> None:
    def refuse(constant: str) -> None:
        raise InvalidValueError(f"{what} holds {constant}, which JSON cannot express: store None or text instead")

    json.loads(body, parse_constant=refuse)


def _holds(body: bytes, character: str) -> bool:
    """Tell an escaped NUL from a backslash that is followed by ``u0000``."""
    stack = [json.loads(body)]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            if character in value:
                return True
        elif isinstance(value, dict):
            stack += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            stack += value
    return False


def _depth(body: bytes) -> int:
    depth = deepest = 0
    quoted = escaped = False
    for byte in body:
        if escaped:
            escaped = False
        elif quoted:
            escaped, quoted = byte == 0x5C, byte != 0x22
        elif byte == 0x22:
            quoted = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
