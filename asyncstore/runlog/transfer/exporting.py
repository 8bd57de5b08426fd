"""
A run as the document that magnus and runnable read. Pure functions.

Both write times without a zone, in local time, and compare them with each other: one time that has a zone among others
that have none is more than they can sort. runnable's own classes want each parameter and metric wrapped in
``{"kind": …, "value": …}``; magnus, and its own timeline, take them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncstore.models import RunLog

__all__ = ["for_other_tools"]

_KINDS = {"json", "metric", "object"}


def for_other_tools(run_log: RunLog, *, wrapped: bool = False) -> dict[str, Any]:
    """
    Return a run's document in the other tools' form.

    Args:
        run_log: the run, in full.
        wrapped: wrap parameters and metrics as runnable's own classes want them; those that are wrapped stay as they
            are.
    """
    tree = run_log.model_dump(mode="json", warnings="none")
    stack: list[dict[str, Any]] = [tree]
    while stack:
        holder = stack.pop()
        if wrapped:
            _wrap(holder, "parameters", "json")
        steps = list((holder.get("steps") or {}).values())
        for step in [*steps, *([holder["job"]] if holder.get("job") else [])]:
            for attempt in step.get("attempts") or ():
                _adapt(attempt, wrapped=wrapped)
        stack += [branch for step in steps for branch in (step.get("branches") or {}).values()]
    return tree


def _adapt(attempt: dict[str, Any], *, wrapped: bool) -> None:
    for key in ("start_time", "end_time"):
        attempt[key] = _local(attempt.get(key))
    if wrapped:
        _wrap(attempt, "input_parameters", "json")
        _wrap(attempt, "output_parameters", "json")
        _wrap(attempt, "user_defined_metrics", "metric")


def _local(time: Any) -> Any:
    """Return a time that has a zone in local time and without one; anything else as it is."""
    try:
        parsed = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        return time
    return time if parsed.tzinfo is None else str(parsed.astimezone().replace(tzinfo=None))


def _wrap(holder: dict[str, Any], key: str, kind: str) -> None:
    holder[key] = {
        name: value if _is_wrapped(value) else {"kind": kind, "value": value}
        for name, value in (holder.get(key) or {}).items()
    }


def _is_wrapped(value: object) -> bool:
    return isinstance(value, Mapping) and value.get("kind") in _KINDS and "value" in value
