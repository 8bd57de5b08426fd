"""
The verbs of obstore on a server that wants signatures: by keys that are renewed, and by a clock that may be corrected.

Where this machine's clock turns out to be wrong, which obstore signs by, our own requests take its place; and so they
do by way of a proxy, for there obstore would follow redirects to any host, with the session token. They also find out
what an answer means where its headers say it, which obstore's errors do not show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from asyncstore.errors import AccessDeniedError, AsyncStoreError, UnavailableError
from asyncstore.objects._errors import RedirectedError, SkewedError
from asyncstore.objects._obstore import ObstoreObjectStore
from asyncstore.objects._s3._messages import metadata_headers
from asyncstore.objects._s3._renewing import ATTEMPTS, REFUSALS, asks_for_keys, is_doubtful

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from asyncstore._core.retry import RetryPolicy
    from asyncstore.aws.credentials import CredentialProvider, Credentials
    from asyncstore.objects._s3._leased import LeasedClient
    from asyncstore.objects._s3._plain import PlainRequests
    from asyncstore.objects._s3._renewing import Refusal
    from asyncstore.objects.base import Listing, ObjectMeta

__all__ = ["SignedObjectStore"]

R = TypeVar("R")


class SignedObjectStore(ObstoreObjectStore):
    """
    The verbs; subclasses make ``_client`` and ``_plain`` in ``_open``.

    Args:
        limit: most requests at the same time.
        retry: how long to keep trying.
        credentials: gives the keys.
    """

    def __init__(self, *, limit: int, retry: RetryPolicy, credentials: CredentialProvider) -> None:
        super().__init__(limit=limit, retry=retry)
        self._credentials = credentials
        self._client: LeasedClient
        self._plain: PlainRequests
        self._confined = True
        self._strays = False

    async def _put_once(self, key: str, data: bytes, mode: Any, metadata: Mapping[str, str] | None) -> str:
        # Spelled out, unlike the others: these are called most, and each layer costs.
        if self._may_use_obstore():
            try:
                return await super()._put_once(key, data, mode, metadata)
            except (SkewedError, RedirectedError) as error:
                if self._is_last_word(error):
                    raise
        return await self._plain.put(key, data, mode, metadata)

    async def _get_once(self, key: str, byte_range: tuple[int, int] | None, etag: str) -> tuple[ObjectMeta, bytes]:
        if self._may_use_obstore():
            try:
                return await super()._get_once(key, byte_range, etag)
            except (SkewedError, RedirectedError) as error:
                if self._is_last_word(error):
                    raise
        return await self._plain.get(key, byte_range, etag, self._if_match(etag) if etag else "")

    async def _head_once(self, key: str) -> ObjectMeta:
        through = super()._head_once

        async def obstores() -> ObjectMeta:
            try:
                return await through(key)
            except AccessDeniedError:
                # A wrong clock is denied, too, and may have been right until now.
                return await self._plain.head(key)

        return await self._either(obstores, lambda: self._plain.head(key))

    async def _list_folder_once(self, prefix: str) -> Listing:
        obstores = super()._list_folder_once
        return await self._either(lambda: obstores(prefix), lambda: self._plain.list_folder(prefix))

    async def _delete_once(self, keys: Sequence[str]) -> None:
        obstores = super()._delete_once
        return await self._either(lambda: obstores(keys), lambda: self._plain.delete(keys))

    async def _either(self, obstores: Callable[[], Awaitable[R]], plain: Callable[[], Awaitable[R]]) -> R:
        """Make a request through obstore, or by ourselves where it cannot sign."""
        if self._may_use_obstore():
            try:
                return await obstores()
            except (SkewedError, RedirectedError) as error:
                if self._is_last_word(error):
                    raise
        return await plain()

    def _may_use_obstore(self) -> bool:
        """Tell whether obstore can sign, and would show a session token to nobody but the endpoint."""
        credentials = self._credentials
        if not self._confined or credentials.clock.is_far_off:
            return False
        return not self._strays or ((keys := credentials.at_hand) is not None and keys.token is None)

    def _is_last_word(self, error: SkewedError | RedirectedError) -> bool:
        """Tell whether an error of obstore's, which has carried nothing out, is not worth a request of our own."""
        # It says neither where a redirect leads, nor what time it is by the ``Date`` of a refusal, where many servers
        # tell it alone.
        return isinstance(error, SkewedError) and error.server_s is not None and not self._credentials.clock.is_far_off

    def _check_metadata(self, metadata: Mapping[str, str]) -> None:
        super()._check_metadata(metadata)
        metadata_headers(metadata)

    async def _called(self, verb: str, key: str, ask: Callable[[], R], *, writes: Collection[str] = ()) -> R:
        """Call obstore in a thread, with keys that are valid; with others, if they are refused all the same."""
        left = ATTEMPTS
        while True:
            used = self._credentials.at_hand or await self._credentials.get()
            if not self._client.has(used):
                await self._replace_client(used)
            try:
                return await super()._called(verb, key, ask, writes=writes)
            except REFUSALS as refusal:
                left -= 1
                # With the clock set right, obstore would still sign by this machine's.
                if not left or not asks_for_keys(refusal, used, self._credentials.clock):
                    raise
                await self._renew(used, refusal)

    async def _called_with_own(self, verb: str, key: str, work: Callable[[], R], *, writes: Collection[str] = ()) -> R:
        """Call what makes requests of our own in a thread; it sees to its keys itself."""
        return await super()._called(verb, key, work, writes=writes)

    async def _replace_client(self, used: Credentials) -> None:
        await self._client.take(used)
        self._check_open()
        self._store = self._client.store

    async def _renew(self, used: Credentials, refusal: Refusal) -> None:
        try:
            await self._credentials.renew(used, in_doubt=is_doubtful(refusal))
        except UnavailableError:
            raise
        except AsyncStoreError as error:
            raise refusal from error
