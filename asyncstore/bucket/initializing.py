"""
A bucket made ready: created if it is absent, and set as wanted as far as that takes nothing away.

What is to be done is decided by pure functions (:mod:`asyncstore.bucket.plan`); here it is read, done and told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from asyncstore._core.concurrency import map_bounded
from asyncstore._core.retry import retrying
from asyncstore.bucket._admin import CONCERNS_ALL, Admin, answer_in, code_of, is_unsupported, region_in
from asyncstore.bucket._plan_rules import differences
from asyncstore.bucket.plan import BLOCKS, Verdict, WantedBucket
from asyncstore.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AsyncStoreError,
    ConfigurationError,
    NotFoundError,
    UnavailableError,
)
from asyncstore.objects._s3._bucket import check_bucket

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.aws.settings import AwsSettings
    from asyncstore.bucket.plan import Answer, Difference

__all__ = ["BucketReport", "SettingReport", "State", "check_region", "init_bucket"]

NO_LOCATION = "us-east-1"
"""The region that is meant where none is said, and must not be said."""

NEW_ON_AWS: Mapping[str, Answer] = {
    "public access": {"PublicAccessBlockConfiguration": dict.fromkeys(BLOCKS, True)},
    "encryption": {
        "ServerSideEncryptionConfiguration": {
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}]
        }
    },
}
"""What AWS gives a new bucket by itself."""


class State(StrEnum):
    """What became of a setting."""

    FINE = "as wanted"
    TO_CHANGE = "to change"
    CHANGED = "changed"
    KEPT = "kept"
    """It differs, and is left alone unless it is forced."""
    LEFT = "not asked for"
    UNSUPPORTED = "not supported by this server"
    IGNORED = "ignored by this server"
    """The server took the change, and does not show it."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SettingReport:
    """One setting of a bucket: how it was, how it is wanted, and what became of it."""

    setting: str
    state: State
    found: str = ""
    wanted: str = ""
    why: str = ""
    error: AsyncStoreError | None = None


@dataclass(frozen=True, slots=True)
class BucketReport:
    """What became of a bucket."""

    bucket: str
    region: str
    endpoint: str
    """The server's URL, empty for AWS itself."""
    existed: bool
    dry_run: bool
    settings: tuple[SettingReport, ...]

    @property
    def changes(self) -> int:
        """How many settings were changed, or would be in a dry run; that the bucket is made counts as one."""
        states = {State.CHANGED, State.TO_CHANGE}
        return sum(setting.state in states for setting in self.settings) + (not self.existed)

    @property
    def failures(self) -> list[AsyncStoreError]:
        """What could not be read or changed, and should have been."""
        return [setting.error for setting in self.settings if setting.error is not None]


@dataclass(frozen=True, slots=True)
class _Reading:
    operation: str
    absent: str = ""
    """The code that says that there is nothing of it."""
    shown: tuple[str, ...] = ()
    """The lines that it stands for, if they are not its own name."""


_READINGS: Mapping[str, _Reading] = {
    "public access": _Reading("get_public_access_block", "NoSuchPublicAccessBlockConfiguration"),
    "encryption": _Reading("get_bucket_encryption", "ServerSideEncryptionConfigurationNotFoundError"),
    "object lock": _Reading("get_object_lock_configuration", "ObjectLockConfigurationNotFoundError"),
    "versioning": _Reading("get_bucket_versioning"),
    "CORS": _Reading("get_bucket_cors", "NoSuchCORSConfiguration"),
    "lifecycle": _Reading(
        "get_bucket_lifecycle_configuration", "NoSuchLifecycleConfiguration", ("unfinished uploads", "expiry")
    ),
}


async def init_bucket(
    bucket: str,
    settings: AwsSettings,
    wanted: WantedBucket | None = None,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> BucketReport:
    """
    Make a bucket ready for run logs and data, and tell what was done; a second call finds nothing to do.

    It is created in ``settings.region`` if it is absent, public access is blocked, its objects are encrypted, uploads
    that nobody finished are aborted after a week, and what ``wanted`` says besides. What is stricter already, and what
    others have set, stays: only ``force`` suspends versioning, replaces an encryption that is stronger or by another
    key, changes when objects expire or uploads are aborted, and sets our rules back where somebody changed them. A
    setting that the server does not know, or that may not be changed, does not stop the others: see
    :attr:`BucketReport.failures`.

    Args:
        bucket: its name.
        settings: region, endpoint, and whose credentials to use: an administrator's rather than a worker's.
        wanted: origins for CORS, encryption key, expiry.
        dry_run: change nothing, and tell what would be changed.
        force: change also what is kept otherwise.

    Raises:
        AlreadyExistsError: the name is taken by somebody else.
        AccessDeniedError: the bucket may not be looked at, or not be created.
        ConfigurationError: no bucket can have that name, or it is in another region.
        CredentialsError: none are configured, or the server does not accept them.
        UnavailableError: the server cannot be reached, or not now.
    """
    check_bucket(bucket)
    wanted = wanted or WantedBucket()
    async with Admin("s3", settings) as s3:
        work = _Initializing(s3, bucket, settings, wanted, force)
        existed = await work.exists()
        if not existed and not dry_run:
            await work.create()
        if existed or not dry_run:
            answers, reports = await work.read()
        else:
            answers, reports = work.of_a_new_one(), []
        reports += await work.settle(answers, dry_run=dry_run)
        shown = tuple(sorted(reports, key=lambda report: _ORDER.index(report.setting)))
        return BucketReport(bucket, settings.region, settings.endpoint or "", existed, dry_run, shown)


_ORDER = ("public access", "encryption", "object lock", "versioning", "CORS", "unfinished uploads", "expiry")


@dataclass(frozen=True, slots=True)
class _Initializing:
    s3: Admin
    bucket: str
    settings: AwsSettings
    wanted: WantedBucket
    force: bool

    @property
    def _at(self) -> str:
        return f"s3://{self.bucket}"

    async def exists(self) -> bool:
        """
        Tell whether the bucket is there, and ours to look at.

        Raises:
            AccessDeniedError: it is not ours.
            ConfigurationError: it is in another region.
        """
        try:
            answer = await self.s3.call("head_bucket", f"look for {self._at}", Bucket=self.bucket)
        except NotFoundError:
            return False
        except AccessDeniedError as error:
            raise AccessDeniedError(
                f"{self._at} exists, and these credentials may not look at it: it belongs to somebody else, "
                "or s3:ListBucket is missing"
            ) from error
        except AsyncStoreError as error:
            region = region_in(answer_in(error))
            if region and region != self.settings.region:
                raise _elsewhere(region, self.bucket, self.settings) from error
            raise
        check_region(region_in(answer), self.bucket, self.settings)
        return True

    async def create(self) -> None:
        """Create the bucket and wait until it can be used."""
        region, parameters = self.settings.region, {}
        if region != NO_LOCATION:
            parameters = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            await self.s3.call("create_bucket", f"create {self._at}", Bucket=self.bucket, **parameters)
        except AlreadyExistsError as error:
            # Ours, where somebody was faster, or an answer was lost; not all servers say whose it is.
            if code_of(error) != "BucketAlreadyOwnedByYou" and not await self.exists():
                raise AlreadyExistsError(
                    f"{self._at} belongs to somebody else: all accounts share the names of buckets, choose another one"
                ) from error

        async def seen() -> None:
            if not await self.exists():
                raise UnavailableError(f"{self._at} was created, and is not there yet")

        await retrying(seen)

    def of_a_new_one(self) -> dict[str, Answer]:
        """Return what there would be of each setting, were the bucket created now."""
        given = {} if self.settings.endpoint else NEW_ON_AWS
        return {name: given.get(name, {}) for name in _READINGS}

    async def read(self) -> tuple[dict[str, Answer], list[SettingReport]]:
        """Return what S3 says of each setting, and reports of those that cannot be read."""
        results = await map_bounded(self._read, _READINGS, limit=len(_READINGS))
        answers, reports = {}, []
        for name, result in zip(_READINGS, results, strict=True):
            if not isinstance(result, AsyncStoreError):
                answers[name] = result
            elif name != "object lock" or not is_unsupported(result):
                lines = _READINGS[name].shown or (name,)
                reports += [_failed(line, result) for line in lines if line != "expiry" or self.wanted.expire_days]
        return answers, reports

    async def settle(self, answers: Mapping[str, Answer], *, dry_run: bool) -> list[SettingReport]:
        """Make the settings as wanted, and tell what became of each."""
        reports = []
        for difference in differences(answers, self.wanted, force=self.force):
            report = _planned(difference)
            if difference.call is not None and not dry_run:
                report = await self._change(difference)
            reports.append(report)
        if any(report.state is State.CHANGED for report in reports) and self.settings.endpoint:
            return await self._confirmed(reports)
        return reports

    async def _read(self, name: str) -> Answer | AsyncStoreError:
        reading = _READINGS[name]
        try:
            answer = await self.s3.call(reading.operation, f"read {name} of {self._at}", Bucket=self.bucket)
        except CONCERNS_ALL:
            raise
        except AsyncStoreError as error:
            return {} if reading.absent and code_of(error) == reading.absent else error
        return {key: value for key, value in answer.items() if key != "ResponseMetadata"}

    async def _change(self, difference: Difference) -> SettingReport:
        call: Any = difference.call
        what = f"change {difference.setting} of {self._at}"
        try:
            await self.s3.call(call.operation, what, Bucket=self.bucket, **call.parameters)
        except CONCERNS_ALL:
            raise
        except AsyncStoreError as error:
            return _failed(difference.setting, error, difference)
        return _planned(difference, State.CHANGED)

    async def _confirmed(self, reports: list[SettingReport]) -> list[SettingReport]:
        """Look again, for there are servers that take what they do not know; AWS itself may show a change late."""
        answers, _ = await self.read()
        still = {
            difference.setting
            for difference in differences(answers, self.wanted, force=self.force)
            if difference.verdict is not Verdict.FINE
        }
        return [
            SettingReport(report.setting, State.IGNORED, report.found, report.wanted, report.why)
            if report.state is State.CHANGED and report.setting in still
            else report
            for report in reports
        ]


def check_region(region: str, bucket: str, settings: AwsSettings) -> None:
    """
    Do nothing if a bucket of that region is reached by the settings; empty if that is not known.

    Raises:
        ConfigurationError: it is not; other servers than AWS name a region and take any.
    """
    if region and region != settings.region and settings.endpoint is None:
        raise _elsewhere(region, bucket, settings)


def _elsewhere(region: str, bucket: str, settings: AwsSettings) -> ConfigurationError:
    return ConfigurationError(
        f"s3://{bucket} is in {region} and not in {settings.region}: say so by --region {region}, "
        "and by 'region' in the configuration"
    )


_STATES = {
    Verdict.FINE: State.FINE,
    Verdict.CHANGE: State.TO_CHANGE,
    Verdict.KEPT: State.KEPT,
    Verdict.LEFT: State.LEFT,
}


def _planned(difference: Difference, state: State | None = None) -> SettingReport:
    state = state or _STATES[difference.verdict]
    return SettingReport(difference.setting, state, difference.found, difference.wanted, difference.why)


def _failed(setting: str, error: AsyncStoreError, difference: Difference | None = None) -> SettingReport:
    found, wanted = (difference.found, difference.wanted) if difference else ("", "")
    if is_unsupported(error):
        return SettingReport(setting, State.UNSUPPORTED, found, wanted)
    return SettingReport(setting, State.FAILED, found, wanted, error=error)
