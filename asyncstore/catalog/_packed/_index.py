"""
Indices: what a put has packed. Pure.

An index is a line of text, ``asyncstore-index <version> <SHA-256 of the rest>``, and JSON compressed with zlib, in
columns: an index of 50,000 files has about 2.5 MB, most of it their digests.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncstore.errors import ConfigurationError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["NO_PACK", "Entry", "Index", "decode", "encode"]

VERSION = 1

NO_PACK = -1
"""Number of the pack of what has no bytes."""

_HEAD = re.compile(rb"asyncstore-index (\d{1,9}) ([0-9a-f]{64})\n")
_HEAD_LIMIT_BYTES = 128
_DIGEST_DIGITS = 64
_HEX = re.compile(r"[0-9a-f]*")

SIZE_LIMIT_BYTES = 1 << 30
"""Largest JSON that is taken for an index: of some millions of files."""

INFLATION_LIMIT = 200
"""How often larger the JSON may be than it is compressed: usually it is 2 to 60 times, of very long names 140."""

SMALL_BYTES = 1 << 20
"""So much JSON any index may have."""


class Entry(NamedTuple):
    """A packed file."""

    name: str
    """Relative to the folder that the index is about."""
    pack: int
    """Its pack's place in :attr:`Index.packs`, or :data:`NO_PACK`."""
    offset: int
    size_bytes: int
    digest: str
    """SHA-256 in hex."""
    mode: int | None = None
    """Permission bits."""
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """What a put has packed, in columns: a row is a file, an :class:`Entry`."""

    packs: Sequence[str]
    """Names of packs, in the folder that the index lies in."""
    names: Sequence[str] = ()
    numbers: Sequence[int] = ()
    """Of their packs."""
    offsets: Sequence[int] = ()
    sizes: Sequence[int] = ()
    digests: str = ""
    """One behind the other."""
    modes: Sequence[int | None] = ()
    mtimes_ns: Sequence[int | None] = ()
    empty: Sequence[str] = ()
    """Folders that held nothing."""

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield what is packed; rows are plain tuples, as there may be very many."""
        digests = (self.digests[at : at + _DIGEST_DIGITS] for at in range(0, len(self.digests), _DIGEST_DIGITS))
        return zip(self.names, self.numbers, self.offsets, self.sizes, digests, self.modes, self.mtimes_ns, strict=True)


def encode(index: Index) -> bytes:
    """Return the bytes of an index."""
    # Digests do not compress beyond their four bits a digit, so more effort is in vain.
    body, text_bytes = _compressed(index, 1)
    if text_bytes > _most_bytes(len(body)):
        # What is so much alike would be taken for a bomb.
        body, _ = _compressed(index, 0)
    return f"asyncstore-index {VERSION} {hashlib.sha256(body).hexdigest()}\n".encode() + body


def _compressed(index: Index, level: int) -> tuple[bytes, int]:
    """Return the compressed JSON of an index, and how many bytes it has uncompressed."""
    deflater = zlib.compressobj(level)
    pieces, text_bytes = [], 0
    for text in map(str.encode, _text_of(index)):
        pieces.append(deflater.compress(text))
        text_bytes += len(text)
    return b"".join([*pieces, deflater.flush()]), text_bytes


def _text_of(index: Index) -> Iterator[str]:
    """Yield the JSON of an index column by column: all at once it takes ten times the room of its bytes."""
    columns = {
        "packs": index.packs,
        "name": index.names,
        "pack": index.numbers,
        "offset": index.offsets,
        "size": index.sizes,
        "sha256": index.digests,
        "mode": index.modes,
        "mtime_ns": index.mtimes_ns,
        "empty": index.empty,
    }
    opening = "{"
    for name, values in columns.items():
        yield f'{opening}"{name}":'
        yield json.dumps(values, separators=(",", ":"))
        opening = ","
    yield "}"


def decode(data: bytes | bytearray | memoryview, where: str) -> Index:
    """
    Return the index that ``data`` is; ``where`` says in errors where it was.

    Raises:
        IntegrityError: it is none, or is damaged, or would take far more memory than an index of its size.
        ConfigurationError: a newer version of asyncstore has written it.
    """
    view = memoryview(data)
    head = _HEAD.match(view[:_HEAD_LIMIT_BYTES])
    if head is None:
        raise IntegrityError(f"{where} is no index of packs")
    version = int(head[1])
    if version != VERSION:
        raise ConfigurationError(f"{where} has version {version}, and this asyncstore knows {VERSION}: update it")
    body = view[head.end() :]
    if hashlib.sha256(body).hexdigest() != head[2].decode():
        raise IntegrityError(f"{where} is damaged: its SHA-256 is not what it says")
    most = _most_bytes(len(body))
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(body, most)
        # The whole text may be out before its end is seen.
        if inflater.unconsumed_tail and inflater.decompress(inflater.unconsumed_tail, 1):
            raise IntegrityError(
                f"{where} is no index that asyncstore has made: its {len(body):,} bytes inflate to over {most:,} bytes"
            )
        return _index_of(json.loads(text))
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{where} is damaged: {error}") from error


def _most_bytes(packed_bytes: int) -> int:
    return min(SIZE_LIMIT_BYTES, max(SMALL_BYTES, INFLATION_LIMIT * packed_bytes))


def _index_of(columns: Mapping[str, Any]) -> Index:
    index = Index(
        packs=_column(columns["packs"], str),
        names=_column(columns["name"], str),
        numbers=_column(columns["pack"], int),
        offsets=_column(columns["offset"], int),
        sizes=_column(columns["size"], int),
        digests=columns["sha256"],
        modes=_column(columns["mode"], int, type(None)),
        mtimes_ns=_column(columns["mtime_ns"], int, type(None)),
        empty=_column(columns["empty"], str),
    )
    count = len(index.names)
    lengths = {len(one) for one in (index.numbers, index.offsets, index.sizes, index.modes, index.mtimes_ns)}
    if lengths != {count} or len(index.digests) != count * _DIGEST_DIGITS or not _HEX.fullmatch(index.digests):
        raise ValueError("its columns do not fit together")
    least, most = min(index.numbers, default=NO_PACK), max(index.numbers, default=NO_PACK)
    if least < NO_PACK or most >= len(index.packs) or min((*index.offsets, *index.sizes), default=0) < 0:
        raise ValueError("a file lies nowhere")
    return index


def _column(values: Any, *types: type) -> list[Any]:
    if not isinstance(values, list) or not set(map(type, values)) <= set(types):
        raise TypeError("a column is not of its type")
    return values
