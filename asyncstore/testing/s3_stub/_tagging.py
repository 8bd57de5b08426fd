"""Verbs on the tags of objects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from asyncstore.testing.s3_stub._describing import tags_of
from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request
from asyncstore.testing.s3_stub._xml import document, parse, tag

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub._storage import Storage

__all__ = ["delete_tags", "get_tags", "put_tags"]


def get_tags(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Tell an object's tags."""
    tags = storage.bucket(request.bucket).get(request.key).description.tags
    listed = "".join(f"<Tag>{tag('Key', name)}{tag('Value', value)}</Tag>" for name, value in tags.items())
    return document("Tagging", f"<TagSet>{listed}</TagSet>")


def put_tags(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Replace an object's tags."""
    pairs = [(child("Key"), child("Value")) for child in parse(bytes(request.body), "{*}TagSet/{*}Tag")]
    _set(storage, request, tags_of(pairs))
    return Answer()


def delete_tags(storage: Storage, _: Behaviour, request: Request) -> Answer:
    """Take an object's tags away."""
    _set(storage, request, {})
    return Answer(204)


def _set(storage: Storage, request: Request, tags: dict[str, str]) -> None:
    stored = storage.bucket(request.bucket).get(request.key)
    # A copy may have the same description.
    stored.description = replace(stored.description, tags=tags)
