"""What a store makes of what was found out about its endpoint: which requests say a condition, and how."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from asyncstore.errors import AccessDeniedError, ConfigurationError
from asyncstore.objects._s3._probe import known_capabilities, learn
from asyncstore.objects.base import FULL, sent_etag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncstore.objects.base import Capabilities, Condition

__all__ = ["Endpoint"]


class Endpoint:
    """
    One bucket at one endpoint, as one store sees it.

    Args:
        url: the endpoint; empty for AWS itself, which is documented to honour everything and is not probed: no request,
            and nothing that a policy, a lock or a version could mind.
        region: the bucket's.
        bucket: its name.
        prefix: where a probe object may be written and deleted.
        probe: asks the server, with an object under the prefix it is given.

    Attributes:
        reads_match: whether a read that says the right ETag is let through; ``None`` until one was.
        ranges_seen_plain: whether a read of a range was answered with the status of a whole object.
    """

    def __init__(
        self, url: str, region: str, bucket: str, *, prefix: str, probe: Callable[[str], Awaitable[Capabilities]]
    ) -> None:
        self._place = url, region, bucket
        self._prefix = prefix
        self._ask = probe
        self._may_not_probe = False
        self.reads_match: bool | None = None
        self.ranges_seen_plain = False

    async def capabilities(self) -> Capabilities:
        """Return what was found out in this process, or find it out; see :meth:`ObjectStore.capabilities`."""
        known = self._known
        if known is None and not self._may_not_probe:
            try:
                return await self._probe(self._prefix)
            except AccessDeniedError:
                self._may_not_probe = True
        return known or FULL

    async def mode(self, key: str, condition: Condition) -> Any:
        """
        Return obstore's mode for a put of ``key`` on ``condition``, finding out first in which form it wants an ETag.

        Raises:
            AccessDeniedError: nothing may be written there.
            ConfigurationError: it was denied to find out, and here it turns out that conditions are ignored.
        """
        if condition.create and not self._may_not_probe:
            return "create"
        found = await self.capabilities()
        if self._known is None and self._may_not_probe:
            found = await self._probe_beside(key)
            if not (found.create if condition.create else found.match):
                raise ConfigurationError(
                    f"put s3://{self._place[2]}/{key}: conditions are ignored there, which could not be found out "
                    f"before, since nothing may be written under {self._prefix!r}: allow that, and try again"
                )
        return "create" if condition.create else {"e_tag": sent_etag(condition.etag, found.etag_form)}

    def if_match(self, etag: str) -> str:
        """Return what a read of one version says in ``If-Match``; nothing where it had better not say it."""
        known = self._known
        if self.reads_match is False or (known and not known.match):
            # What comes is compared with it anyway.
            return ""
        return sent_etag(etag, known.etag_form if known else "quoted")

    @property
    def lenient_ranges(self) -> bool:
        """Whether ranges are not to be read through obstore, which takes no other answer than a proper one."""
        known = self._known
        return self.ranges_seen_plain or (known is not None and known.ranges != "proper")

    @property
    def _known(self) -> Capabilities | None:
        return known_capabilities(self._place) if self._place[0] else FULL

    async def _probe_beside(self, key: str) -> Capabilities:
        """Probe in a key's folder, for perhaps only there it is allowed to write."""
        try:
            return await self._probe("".join(key.rpartition("/")[:2]))
        except AccessDeniedError as error:
            # Even if the key itself may be written: nobody knows what would become of another's write.
            raise AccessDeniedError(
                f"put s3://{self._place[2]}/{key}: a permission is missing, to write there, or at least beside it, "
                f"where it would be found out whether conditions are honoured [AccessDenied]"
            ) from error

    async def _probe(self, prefix: str) -> Capabilities:
        return await learn(self._place, self, partial(self._ask, prefix))
