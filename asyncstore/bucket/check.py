"""
Checking a bucket: a small test object is written and removed, then whatever asyncstore does is tried once.

Each check is an action of its own, with the credentials, the settings and the engines of the stores; one that fails
stops no other. Reads and questions go on beside the writes, which go one after another. What was made is removed again,
also after a failure or a cancellation; what cannot be removed, since deleting is denied, is told.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING

from asyncstore._core.access import UNRESTRICTED
from asyncstore._core.concurrency import for_each, shielded
from asyncstore._core.findings import Finding
from asyncstore.aws.credentials import CredentialProvider
from asyncstore.bucket._check_multipart import TestUploads
from asyncstore.bucket._check_objects import TestObject, seen_error
from asyncstore.bucket._check_plan import MULTIPART, plan_checks
from asyncstore.bucket._check_requests import RETRY, Requests
from asyncstore.bucket._check_settings import (
    look_at_bucket,
    look_at_cors,
    look_at_lifecycle,
    look_at_versioning,
)
from asyncstore.bucket._check_verdict import OK, Seen, granting, judge
from asyncstore.bucket.cors import check_origin
from asyncstore.errors import AccessDeniedError, AsyncStoreError
from asyncstore.objects.s3 import S3ObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from asyncstore._core.access import Access
    from asyncstore.aws.settings import AwsSettings
    from asyncstore.bucket._check_plan import Plan

__all__ = ["Finding", "check_bucket", "granting"]

CHECK_TIMEOUT_S = 30.0
"""Longest that one check may take."""

CLEANUP_DEADLINE_S = 15.0

log = logging.getLogger(__name__)


async def check_bucket(
    bucket: str,
    settings: AwsSettings,
    *,
    prefix: str = "",
    origin: str = "",
    access: Access = UNRESTRICTED,
) -> list[Finding]:
    """
    Check what asyncstore needs of a bucket, and return what was found of each thing, in a fixed order.

    Args:
        bucket: its name; it must exist.
        settings: how it is used: endpoint, region, credentials, roles, key, tags.
        prefix: below which test objects are written and removed; empty, or ending in ``/``.
        origin: of web pages that are to use presigned URLs, such as ``https://app.example.com``.
        access: what the configuration allows to be done; nothing else is tried.

    Raises:
        ConfigurationError: there is no such bucket, or no S3 server.
        CredentialsError: there are no credentials, or the server does not accept them.
        UnavailableError: the server cannot be reached.
    """
    plan = plan_checks(bucket, prefix, settings, origin=check_origin(origin) if origin else "", access=access)
    checking = _Checking(plan)
    await checking.run()
    return [*judge(plan, checking.seen), *checking.rest]


class _Checking:
    """One round of all checks of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.seen: dict[str, Seen] = {}
        self.rest: list[Finding] = []
        self._plan = plan
        self._settings = plan.settings

    async def run(self) -> None:
        """Try everything that is planned."""
        plan = self._plan
        provider = CredentialProvider(plan.settings)
        if not await self._has_keys("assume role", provider):
            self._skip_rest("without the role there are no credentials")
            return
        async with Requests(plan.bucket, plan.settings, provider) as requests:
            region, clock, found = await look_at_bucket(requests, plan.bucket, plan.settings)
        self.seen |= {"region": region, "clock": clock}
        if region.outcome == "missing":
            # Elsewhere each further answer would be the same redirection.
            self._settings = plan.settings.model_copy(update={"region": found})
        async with (
            Requests(plan.bucket, self._settings, provider) as requests,
            S3ObjectStore(plan.bucket, self._settings, retry=RETRY, credentials=provider) as store,
        ):
            await self._with_object(TestObject(plan, store, requests, self._attempt), requests)

    async def _with_object(self, subject: TestObject, requests: Requests) -> None:
        plan = self._plan
        role = plan.settings.multipart_upload_role_arn
        provider = CredentialProvider(self._settings, role_arn=role) if role else None
        async with Requests(plan.bucket, self._settings, provider) if provider else requests as by_parts:
            uploads = TestUploads(plan, subject, by_parts, self._attempt)

            async def write() -> None:
                if plan.is_wanted("put"):
                    await subject.write()
                    if provider is None or await self._may_upload(provider):
                        await uploads.run()

            async def look() -> None:
                await self._look(requests, subject)

            try:
                if plan.is_wanted("put"):
                    await subject.make()
                await for_each(lambda lane: lane(), (subject.read, subject.look, look, write), limit=4)
            finally:
                await self._clean_up(subject, uploads)

    async def _look(self, requests: Requests, subject: TestObject) -> None:
        plan = self._plan
        await self._attempt("versioning", lambda: look_at_versioning(requests))
        await self._attempt("lifecycle", lambda: look_at_lifecycle(requests, plan.bucket, plan.prefix))
        await self._attempt("cors", lambda: look_at_cors(requests, plan.bucket, subject.no_key, plan.origin))

    async def _has_keys(self, name: str, provider: CredentialProvider) -> bool:
        """Tell whether a role may be assumed; without one, whether there are keys, which it is an error to lack."""
        try:
            await provider.get()
        except AccessDeniedError as error:
            self.seen[name] = Seen("denied", str(error))
            return False
        self.seen[name] = OK
        return True

    async def _may_upload(self, provider: CredentialProvider) -> bool:
        """Tell whether the role that uploads in parts can be assumed; nothing else waits for it."""

        async def assume() -> Seen:
            try:
                await provider.get()
            except AccessDeniedError as error:
                # It may be the permission, or the role's trust.
                return Seen("denied", str(error))
            return OK

        name = "assume multipart role"
        if (await self._attempt(name, assume)).outcome == "ok":
            return True
        for step in self._plan.steps:
            if step.who == MULTIPART:
                self.seen[step.name] = Seen("skipped", "without the multipart role nothing is uploaded in parts")
        return False

    async def _attempt(self, name: str, work: Callable[[], Coroutine[Any, Any, Seen]]) -> Seen:
        if not self._plan.is_wanted(name):
            return Seen("skipped")
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                seen = await work()
        except TimeoutError:
            seen = Seen("failed", f"no answer within {CHECK_TIMEOUT_S:.0f} s")
        except AsyncStoreError as error:
            seen = seen_error(error)
        self.seen[name] = seen
        return seen

    def _skip_rest(self, why: str) -> None:
        for step in self._plan.steps:
            self.seen.setdefault(step.name, Seen("skipped", why))

    async def _clean_up(self, subject: TestObject, uploads: TestUploads) -> None:
        left: list[str] = []
        versions: list[str] = []

        async def clean() -> None:
            left.extend(await uploads.clean_up())
            left.extend(await subject.clean_up())
            if not left and self._may_keep_versions(subject):
                versions.append(await subject.remove_versions())

        try:
            await shielded(clean(), deadline_s=CLEANUP_DEADLINE_S)
        except TimeoutError:
            left.append(f"what begins with {subject.key}")
        if left:
            said = f"in s3://{self._plan.bucket} there stays {', '.join(left)}"
            if sys.exc_info()[0] is not None:
                # Nobody will be told otherwise.
                log.warning("%s", said)
            self.rest.append(Finding("clean up", "note" if not subject.deletable else "failed", said))
        elif any(versions):
            self.rest.append(Finding("clean up", "note", f"in s3://{self._plan.bucket} there stay {versions[0]}"))

    def _may_keep_versions(self, subject: TestObject) -> bool:
        seen = self.seen.get("versioning", Seen("skipped"))
        if (seen.outcome == "note" and seen.detail.startswith("on")) or seen.detail == "suspended":
            subject.versioned = True
        return subject.versioned or not (seen.outcome == "unsupported" or seen.detail == "off")
