"""Finding out what a server does with conditional writes, with one small object."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncStoreError,
    ConfigurationError,
    ConflictError,
    NotFoundError,
)
from asyncstore.objects.base import NEW, Capabilities, Condition

if TYPE_CHECKING:
    from asyncstore.objects.base import ObjectStore

__all__ = ["probe"]

PROBE = b"asyncstore probes conditional writes"
WRONG_ETAG = '"00000000000000000000000000000000"'

log = logging.getLogger(__name__)


async def probe(store: ObjectStore, prefix: str) -> Capabilities:
    """
    Return which conditions the server behind ``store`` heeds; the object used for it lies under ``prefix``.

    Raises:
        AccessDeniedError: nothing may be written there.
    """
    key = f"{prefix}.asyncstore-probe-{secrets.token_hex(8)}"
    # Without a condition: a refusal of this one is about writing, a refusal of the others about their conditions.
    etag = await store.put(key, PROBE)
    try:
        create = await _heeds(store, key, NEW, refused=True)
        match = await _heeds(store, key, Condition(etag=WRONG_ETAG), refused=True)
        match = match and await _heeds(store, key, Condition(etag=etag), refused=False)
    finally:
        await _delete(store, key)
    return Capabilities(create, match)


async def _heeds(store: ObjectStore, key: str, condition: Condition, *, refused: bool) -> bool:
    try:
        await store.put(key, PROBE, condition=condition)
    except (AlreadyExistsError, ConflictError, NotFoundError):
        return refused
    except AsyncStoreError as error:
        # Not implemented, a bad request, or not allowed: the same object was written a moment ago.
        if isinstance(error, ConfigurationError | AccessDeniedError) or type(error) is AsyncStoreError:
            return False
        raise
    return not refused


async def _delete(store: ObjectStore, key: str) -> None:
    try:
        await store.delete([key])
    except AsyncStoreError as error:
        log.warning("the probe object %s stays in %s: %s", key, store.location, error)
