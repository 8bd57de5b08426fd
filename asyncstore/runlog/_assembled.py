"""
The assembled document of the ``chunked-*`` layouts: a finished run in one object. Pure functions.

It is the run log as the one-document layouts have it, with the ETags of the fragments that it was made of. It is never
more than a copy: what it says of a fragment counts only while that fragment still has the ETag it had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore.errors import IntegrityError
from asyncstore.models import RunLog
from asyncstore.runlog._json import parse_json
from asyncstore.runlog._keys import relative_key
from asyncstore.runlog.encoding import validate_json
from asyncstore.runlog.fragments import Fragment, FragmentKey
from asyncstore.runlog.tree import flatten, write_document

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["is_current", "read_parts", "read_whole", "write_assembled"]

ETAGS = "_etags"
"""Key under which the document keeps the ETags of the fragments it holds, by their keys within the run."""


def write_assembled(fragments: Sequence[Fragment]) -> bytes | None:
    """
    Return the document that holds ``fragments``, ``None`` if the header is missing.

    Raises:
        IntegrityError: one of them is torn.
    """
    text = write_document(fragments, extra={ETAGS: {relative_key(item.key): item.etag for item in fragments}})
    if text is not None:
        parse_json(text, "the assembled document")
    return text


def read_whole(text: bytes, what: str) -> tuple[RunLog | None, object]:
    """Return the run log that the document is, ``None`` if it is none, and the ETags of the fragments it holds."""
    try:
        run_log = validate_json(RunLog, text, what)
    except IntegrityError:
        return None, None
    return run_log, (run_log.__pydantic_extra__ or {}).pop(ETAGS, None)


def is_current(held: object, listed: Mapping[str, str]) -> bool:
    """Tell whether a document holds exactly the fragments that are listed, as they are now."""
    # Where listings carry no ETags they tell nothing.
    return held == listed and all(listed.values())


def read_parts(text: bytes, what: str) -> dict[FragmentKey, Fragment]:
    """
    Return the fragments that the document holds, each with the ETag it had; a document without ETags holds nothing.

    Raises:
        IntegrityError: it is not a run log.
    """
    tree = parse_json(text, what)
    if not isinstance(tree, dict):
        raise IntegrityError(f"{what} is not a JSON object")
    etags = tree.pop(ETAGS, None)
    if not isinstance(etags, dict):
        return {}
    return {
        item.key: Fragment(item.key, item.body, item.created_at, str(etags.get(relative_key(item.key), "")))
        for item in flatten(tree)
    }
