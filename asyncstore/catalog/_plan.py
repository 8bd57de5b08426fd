"""What to move, and in which portions. Pure: plans are made of what is known of both sides, and run by executors."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from itertools import repeat
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, get_args

from asyncstore.catalog._local._files import IDENTITY, MODE, MTIME, PATH, SEEN, SIZE, Identity
from asyncstore.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from asyncstore.catalog._local._files import LocalFiles
    from asyncstore.catalog._local._files import Row as LocalRow

__all__ = [
    "SAME",
    "Action",
    "Decided",
    "Kind",
    "Layout",
    "PlannedFile",
    "TransferPlan",
    "batches",
    "ranges",
    "total_bytes",
]

MIB = 1024 * 1024

BULKY_BYTES = 64 * 1024
"""From files of this size on, it is hashing and copying what takes longest, which threads can do side by side."""

SMALL_BYTES = 4 * MIB
"""Files up to this size go whole, many in one hop to a thread."""

RANGE_BYTES = 8 * MIB
"""How much of a large object one request reads."""

BATCH_FILES = 32
BATCH_BYTES = 4 * MIB

Action: TypeAlias = Literal["upload", "download", "copy", "skip", "refuse"]
ACTIONS: tuple[Action, ...] = get_args(Action)
Kind: TypeAlias = Literal["put", "get", "sync"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Layout: TypeAlias = Literal["plain", "packed"]

SAME = "same contents"
"""Why a file is skipped that is the same on both sides."""

PackedAt: TypeAlias = tuple[str, int, int | None, int | None]
"""Where a packed file is: key of its pack (of the index if it has no bytes), and offset; its mode, and time in ns."""


_NO_TEXTS = repeat("")
_NOTHING = repeat(None)


class PlannedFile(NamedTuple):
    """One file and what is to become of it."""

    name: str
    """Relative to the compute data folder, or, between runs, to the run; an empty folder's ends in its marker."""
    action: Action
    size_bytes: int
    reason: str
    """Why, in a few words."""
    digest: str = ""
    """SHA-256 in hex, where it is known already."""
    source: str = ""
    """Key of the object that is downloaded or copied; empty if that is in a pack."""
    etag: str = ""
    """Of that object."""
    here: LocalRow | None = None
    """The file to upload as it was when the plan was made; it must still be so. In plain, as there may be very many."""
    packed: PackedAt | None = None
    """Where the bytes are that are downloaded or copied, if that is in a pack."""
    plain: bool = False
    """Whether it becomes an object of its own also where it might be packed."""

    @property
    def path(self) -> str:
        """Where the file to upload really lies; empty if that is where its name says."""
        return self.here[PATH] if self.here else ""

    @property
    def identity(self) -> Identity | None:
        """What tells that the file to upload is still as it was."""
        return tuple.__new__(Identity, self.here[:IDENTITY]) if self.here else None

    @property
    def seen_ns(self) -> int:
        """When the file to upload was looked at, in nanoseconds since the epoch."""
        return self.here[SEEN] if self.here else 0

    @property
    def mode(self) -> int | None:
        """Permission bits of the file to upload, or of the packed one."""
        if self.here:
            return self.here[MODE]
        return self.packed[2] if self.packed else None

    @property
    def mtime_ns(self) -> int | None:
        """When the file to upload was modified, or the packed one, in nanoseconds since the epoch."""
        if self.here:
            return self.here[MTIME]
        return self.packed[3] if self.packed else None

    @property
    def pack(self) -> str:
        """Key of the pack that the file is downloaded or copied out of; of one without bytes, of the index."""
        return self.packed[0] if self.packed else ""

    @property
    def offset(self) -> int:
        """Where it begins in that pack."""
        return self.packed[1] if self.packed else 0

    @classmethod
    def upload(cls, name: str, here: LocalRow, reason: str, digest: str) -> PlannedFile:
        """Plan to upload a local file; its digest is empty if it is not known yet."""
        return cls(name, "upload", here[SIZE], reason, digest, here=here)

    @classmethod
    def uploads(cls, files: LocalFiles, reason: str) -> list[PlannedFile]:
        """Do what :meth:`upload` does of many files, without their digests."""
        rows = files.rows.values()
        return cls.many(files.rows, "upload", map(itemgetter(SIZE), rows), reason, here=rows)

    @classmethod
    def many(
        cls,
        names: Iterable[str],
        action: Action,
        sizes: Iterable[int],
        reason: str,
        *,
        digests: Iterable[str] = _NO_TEXTS,
        sources: Iterable[str] = _NO_TEXTS,
        etags: Iterable[str] = _NO_TEXTS,
        here: Iterable[LocalRow | None] = _NOTHING,
        packed: Iterable[PackedAt | None] = _NOTHING,
    ) -> list[PlannedFile]:
        """Plan the same of many files, given in columns, at a fraction of what each alone takes."""
        columns = names, repeat(action), sizes, repeat(reason), digests, sources, etags, here, packed, repeat(False)
        return list(map(tuple.__new__, repeat(cls), zip(*columns, strict=False)))


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """
    What a transfer will do, file by file: made by ``dry_run=True``, done by :meth:`Catalog.run`.

    It holds plain values only, so it can be pickled, sent elsewhere as JSON, and split among processes or machines
    that see the same files.
    """

    kind: Kind
    run_id: str
    folder: str
    """Key part of the compute data folder, empty or ending in ``/``."""
    local: str
    """Where the compute data folder really lies; empty between runs."""
    where: str
    """What the files are moved to or from, for people."""
    files: tuple[PlannedFile, ...]
    """By name."""
    layout: Layout = "plain"
    """How small files are stored that are uploaded."""

    @property
    def top(self) -> str:
        """What comes before the names of local files in their paths."""
        return f"{self.local.rstrip('/')}/"

    @property
    def moved_bytes(self) -> int:
        """How many bytes are to be uploaded, downloaded or copied."""
        return total_bytes(file for file in self.files if file.action not in {"skip", "refuse"})

    def by_action(self) -> dict[Action, list[PlannedFile]]:
        """Return the files of each action."""
        found: dict[Action, list[PlannedFile]] = {action: [] for action in ACTIONS}
        for file in self.files:
            found[file.action].append(file)
        return found

    def counts(self) -> dict[Action, int]:
        """Return how many files each action has that has any."""
        return {action: len(files) for action, files in self.by_action().items() if files}

    def split(self, parts: int) -> list[TransferPlan]:
        """
        Cut the plan into at most ``parts`` plans of about as many bytes each, none of them empty.

        Raises:
            InvalidValueError: ``parts`` is not positive.
        """
        if parts < 1:
            raise InvalidValueError(f"a plan cannot be split into {parts} parts")
        shares: list[list[PlannedFile]] = [[] for _ in range(min(parts, max(1, len(self.files))))]
        loads = [(0, index) for index in range(len(shares))]
        for file in sorted(self.files, key=lambda file: -file.size_bytes):
            load, least = loads[0]
            shares[least].append(file)
            # A request costs something, too, however small the file.
            heapq.heapreplace(loads, (load + file.size_bytes + RANGE_BYTES // 64, least))
        return [replace(self, files=tuple(sorted(share, key=lambda file: file.name))) for share in shares]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values, for :meth:`from_json`."""
        return {
            "kind": self.kind,
            "run_id": self.run_id,
            "folder": self.folder,
            "local": self.local,
            "where": self.where,
            "layout": self.layout,
            "files": [_file_to_json(file, self.top) for file in self.files],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TransferPlan:
        """
        Return the plan that :meth:`to_json` made ``value`` of.

        Raises:
            InvalidValueError: it is none.
        """
        try:
            files = value["files"]
            plan = cls(**{**value, "files": ()})
            plan = replace(plan, files=tuple(_file_from_json(file, plan.top) for file in files))
        except (AttributeError, KeyError, TypeError) as error:
            raise InvalidValueError(f"this is no plan of a transfer: {error}") from error
        unknown = {file.action for file in plan.files} - set(ACTIONS)
        if unknown or plan.kind not in KINDS:
            raise InvalidValueError(f"this is no plan of a transfer: {', '.join(sorted(unknown)) or plan.kind}?")
        return plan


@dataclass(frozen=True, slots=True)
class Decided:
    """A plan as it is made: mostly there are many files that are the same on both sides, of which little is to say."""

    moves: TransferPlan
    """What is to become of all others."""
    same: dict[str, tuple[int, str]]
    """Size in bytes and SHA-256 of those that are the same, by name."""

    def plan(self) -> TransferPlan:
        """Return the plan of all files."""
        skipped = [PlannedFile(name, "skip", size, SAME, digest) for name, (size, digest) in self.same.items()]
        return replace(self.moves, files=tuple(sorted([*self.moves.files, *skipped], key=lambda file: file.name)))


class Sized(Protocol):
    """Something with a size."""

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""
        ...


S = TypeVar("S", bound=Sized)


def total_bytes(items: Iterable[Sized]) -> int:
    """Return how many bytes they have together."""
    total: int = sum(map(attrgetter("size_bytes"), items))
    return total


def batches(items: Sequence[S], *, workers: int) -> Iterator[list[S]]:
    """
    Cut small files into portions that one worker moves file by file, with one hop to a thread for all of them.

    A portion is half of one worker's share of what is left, so the last ones are single files and no worker ends long
    after the others (guided self-scheduling); it holds at most 32 files or 4 MiB, but always one file.
    """
    start = 0
    while start < len(items):
        end = start + 1
        count = min(BATCH_FILES, max(1, (len(items) - start) // (2 * workers)))
        room = BATCH_BYTES - items[start].size_bytes
        while end < min(start + count, len(items)) and items[end].size_bytes <= room:
            room -= items[end].size_bytes
            end += 1
        yield list(items[start:end])
        start = end


def ranges(size_bytes: int, step: int = RANGE_BYTES) -> list[tuple[int, int]]:
    """Cut a size into ranges (start, end exclusive) of ``step`` bytes; nothing is one empty range."""
    return [(start, min(start + step, size_bytes)) for start in range(0, max(size_bytes, 1), step)]


def _file_to_json(file: PlannedFile, top: str) -> dict[str, Any]:
    value = file._asdict()
    del value["here"], value["packed"]
    identity = file.identity
    return value | {
        "path": file.path or (top + file.name if file.here else ""),
        "identity": None if identity is None else list(identity),
        "seen_ns": file.seen_ns,
        "mode": file.mode,
        "mtime_ns": file.mtime_ns,
        "pack": file.pack,
        "offset": file.offset,
    }


def _file_from_json(value: Mapping[str, Any], top: str) -> PlannedFile:
    fields = dict(value)
    path, identity, seen_ns = (fields.pop(name) for name in ("path", "identity", "seen_ns"))
    mode, mtime_ns, pack, offset = (fields.pop(name) for name in ("mode", "mtime_ns", "pack", "offset"))
    elsewhere = "" if path == top + fields["name"] else path
    here = None if identity is None else (*Identity(*identity), mode, seen_ns, elsewhere)
    return PlannedFile(**fields, here=here, packed=(pack, offset, mode, mtime_ns) if pack else None)
