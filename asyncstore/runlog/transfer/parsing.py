"""
The fragments that stand in what other tools wrote. Pure functions.

Nothing here raises for what is broken in a log: it is left out, and told as a problem, and the rest is read. Fragments
come in creation order: as the nanoseconds in names tell it, otherwise as the document has it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncstore.errors import IntegrityError
from asyncstore.names import branch_of_step
from asyncstore.runlog._json import dump_json, parse_json
from asyncstore.runlog.fragments import Fragment, FragmentKey, Kind, in_creation_order
from asyncstore.runlog.transfer.layouts import Layout, parse_name
from asyncstore.runlog.transfer.reading import Loaded, NotARunError, Parts, Reading, flat_below

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = ["parse_run"]

_OWN_KEYS = ("_etags",)
"""Keys that asyncstore's own assembled document holds beside a run log's."""


def parse_run(run_id: str, layout: Layout, objects: Sequence[Loaded]) -> Parts:
    """
    Return the parts of a run.

    Args:
        run_id: what its file or folder is called; the header's own run id is believed if it differs.
        layout: how it is laid out.
        objects: what is in its folder, in the order of the listing; for documents the one object.

    Raises:
        NotARunError: it is readable, and no run log.
        IntegrityError: nothing of it can be read.
        InvalidValueError: its run id cannot be stored.
    """
    match layout:
        case Layout.DOCUMENT | Layout.MINIO:
            return _parse_document(run_id, objects[0])
        case Layout.MAGNUS_CHUNKED:
            return _parse_magnus(run_id, objects)
        case _:
            return _parse_runnable(run_id, objects)


# Documents.


def _parse_document(run_id: str, loaded: Loaded) -> Parts:
    if loaded.error is not None:
        raise loaded.error
    tree = parse_json(loaded.data, loaded.name)
    if isinstance(tree, str):
        # runnable's minio store writes the text of the document as a JSON string.
        tree = parse_json(tree, loaded.name)
    if not isinstance(tree, dict) or not isinstance(tree.get("run_id"), str):
        raise NotARunError(f"{loaded.name} is not a run log")
    reading = Reading()
    for key in _OWN_KEYS:
        tree.pop(key, None)
    fragments = reading.flattened(tree, loaded.name)
    if not fragments:
        raise IntegrityError(f"{loaded.name} has not the shape of a run log: {'; '.join(reading.problems)}")
    return reading.accepted(run_id, in_creation_order(fragments))


# magnus: an object for each step, branch and parameter.


@dataclass(frozen=True, slots=True)
class _Chunk:
    created_ns: int
    name: str
    fragment: Fragment


def _parse_magnus(run_id: str, objects: Sequence[Loaded]) -> Parts:
    reading = Reading()
    header: list[Fragment] = []
    parameters: dict[str, tuple[str, Any]] = {}
    chunks: dict[FragmentKey, list[_Chunk]] = defaultdict(list)
    for loaded in objects:
        value = reading.value(loaded)
        if value is None:
            continue
        chunk_name = parse_name(loaded.name)
        match chunk_name.kind or _kind_of(chunk_name.name, value):
            case Kind.RUN_LOG:
                header = reading.flattened(value, loaded.name)
            case Kind.PARAMETER:
                _merge(parameters, value, loaded.name, reading.problems)
            case Kind.STEP_LOG | Kind.BRANCH_LOG as kind:
                for part in _flat_part(reading, kind, value, loaded.name, chunk_name.name):
                    chunks[part.key].append(_Chunk(chunk_name.created_ns or 0, loaded.name, part))
            case _:
                reading.problems.append(f"{loaded.name} is left out: it is no part of a run log")
    # What magnus' header holds of steps and branches are older copies; where it sorts first, and writes last, so do we.
    ordered = sorted(chunks.values(), key=lambda found: min(chunk.created_ns for chunk in found))
    separate = [_newest(found, reading.problems) for found in ordered]
    keys = {part.key for part in separate}
    embedded = [part for part in header if part.key not in keys]
    values = [Fragment(FragmentKey(Kind.PARAMETER, key), dump_json(value)) for key, (_, value) in parameters.items()]
    return reading.accepted(run_id, [*embedded, *values, *separate])


def _newest(found: list[_Chunk], problems: list[str]) -> Fragment:
    found.sort(key=lambda chunk: chunk.created_ns)
    last = found[-1]
    if len(found) > 1:
        names = ", ".join(chunk.name for chunk in found)
        problems.append(
            f"{last.fragment.kind} {last.fragment.name!r} stands in {len(found)} objects ({names}): "
            f"taken is {last.name}, the newest"
        )
    return last.fragment


def _merge(parameters: dict[str, tuple[str, Any]], found: Mapping[str, Any], name: str, problems: list[str]) -> None:
    # magnus finds the object of "lr" by what its name begins with, so it may stand in that of "lr_decay".
    for key, value in found.items():
        if key in parameters and parameters[key][1] != value:
            other = parameters[key][0]
            problems.append(f"parameter {key!r} differs in {other} and {name}: taken is {name}, as magnus reads it")
        parameters[key] = (name, value)


def _flat_part(reading: Reading, kind: Kind, value: dict[str, Any], where: str, name: str) -> list[Fragment]:
    """Return the fragment of a step's or branch's object, without the older copies that magnus nests in some."""
    internal_name = value.get("internal_name")
    if not isinstance(internal_name, str):
        reading.problems.append(f"{where} is left out: it has no internal name")
        return []
    # magnus takes names for templates, in which two dollar signs stand for one.
    if internal_name.replace("$$", "$") != name and not internal_name.endswith(f"/{name}"):
        # It finds the object of "train" by what its name begins with, and so writes into that of "train-2".
        what = "step" if kind is Kind.STEP_LOG else "branch"
        reading.problems.append(
            f"{where} holds {what} {internal_name!r}: magnus wrote it over {what} {name!r}, which is lost"
        )
    return flat_below(reading, kind, internal_name, value, where)[:1]


def _kind_of(name: str, value: Mapping[str, Any]) -> Kind | None:
    """Tell what an object is whose name magnus cut at its last slash."""
    if any(key.endswith(f"/{name}") for key in value):
        return Kind.PARAMETER
    if not str(value.get("internal_name", "")).endswith(f"/{name}"):
        return None
    return Kind.STEP_LOG if "attempts" in value else Kind.BRANCH_LOG


# runnable: an object for the run, and one for each branch.


def _parse_runnable(run_id: str, objects: Sequence[Loaded]) -> Parts:
    reading = Reading()
    header: list[Fragment] = []
    branches: list[tuple[str, list[Fragment]]] = []
    for loaded in objects:
        value = reading.value(loaded)
        if value is None:
            continue
        match parse_name(loaded.name).kind:
            case Kind.RUN_LOG:
                header = reading.flattened(value, loaded.name)
            case Kind.BRANCH_LOG if isinstance(value.get("internal_name"), str):
                began = _began(value)
                parts = flat_below(reading, Kind.BRANCH_LOG, value["internal_name"], value, loaded.name)
                branches.append((began, parts))
            case _:
                reading.problems.append(f"{loaded.name} is left out: it is no part of a run log")
    # Nothing says when a branch was made, but for when its first step began.
    branches.sort(key=lambda branch: branch[0])
    # What the header, or a branch, holds of branches that have objects of their own are older copies.
    own = {parts[0].key.name for _, parts in branches if parts}
    current = [part for _, parts in branches for part in parts if _holder(part, own) in {parts[0].key.name, None}]
    return reading.accepted(run_id, [*(part for part in header if _holder(part, own) is None), *current])


def _holder(part: Fragment, branches: Collection[str]) -> str | None:
    """Return which of ``branches`` a fragment is, or is directly in; ``None`` if in none of them."""
    match part.kind:
        case Kind.BRANCH_LOG:
            holder = part.name
        case Kind.PARAMETER:
            holder = part.scope
        case Kind.STEP_LOG:
            holder = branch_of_step(part.name, str(part.value.get("name", part.name)), branches)
        case _:
            holder = ""
    return holder if holder in branches else None


def _began(branch: Mapping[str, Any]) -> str:
    """Return when a branch's first step began, as text that sorts; what does not say comes last."""
    steps = branch.get("steps")
    attempts = [
        attempt
        for step in (steps.values() if isinstance(steps, dict) else ())
        if isinstance(step, dict)
        for attempt in (step.get("attempts") or ())
        if isinstance(attempt, dict)
    ]
    return min((str(attempt.get("start_time") or "~") for attempt in attempts), default="~")
