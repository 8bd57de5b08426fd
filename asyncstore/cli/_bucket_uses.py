"""Which buckets a configuration uses, and how; and the settings that an administrator's commands reach them with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from asyncstore.aws.settings import AwsSettings
from asyncstore.bucket.documents import BucketAccess
from asyncstore.errors import ConfigurationError
from asyncstore.services import make_secrets
from asyncstore.services._buckets import BucketUse, bucket_use, is_on_s3
from asyncstore.services._making import filled

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from asyncstore.cli._command import Session
    from asyncstore.services import Configuration, ServiceConfiguration

__all__ = [
    "BucketArgument",
    "BucketUse",
    "EndpointOption",
    "ProfileOption",
    "RegionOption",
    "accesses_of",
    "admin_settings",
    "buckets_of",
    "reached",
    "the_bucket",
    "uses_of",
]

BucketArgument = Annotated[
    str, typer.Argument(metavar="BUCKET", help="The bucket; without it, the one that the configuration names.")
]
RegionOption = Annotated[str, typer.Option("--region", metavar="REGION", help="The bucket's region.")]
ProfileOption = Annotated[
    str, typer.Option("--profile", metavar="NAME", help="Use the credentials of this profile, an administrator's.")
]
EndpointOption = Annotated[
    str, typer.Option("--endpoint-url", metavar="URL", help="Another S3 server than AWS', or than the configured one.")
]

_OF_OBJECTS = {"kms_key_arn", "multipart_upload_role_arn", "object_tags", "storage_class", "user_metadata"}
"""Keys of the settings that are about objects, not about how AWS is reached."""


async def uses_of(session: Session) -> list[BucketUse]:
    """
    Return what a configuration does with buckets: by each of its stores, or by the one that was asked for.

    Raises:
        ConfigurationError: there is no such store, or a service has wrong settings.
    """
    configuration = await session.configuration()
    stores = [configuration] if session.store else configuration.every_store()
    return [use for store in stores for use in await buckets_of(store)]


async def buckets_of(configuration: Configuration) -> list[BucketUse]:
    """
    Return the services of a configuration that are on S3; nothing is opened but secrets that they need.

    Raises:
        ConfigurationError: a service has wrong settings.
    """
    services = {"run_log_store": configuration.run_log_store, "catalog": configuration.catalog}
    on_s3 = {
        name: service for name, service in services.items() if service is not None and is_on_s3(name, service.type)
    }
    if not any("$" in str(service.options) for service in on_s3.values()):
        return [await _use(name, service, service.options, configuration) for name, service in on_s3.items()]
    async with await make_secrets(configuration) as secrets:
        return [
            await _use(name, service, await filled(service.options, secrets), configuration)
            for name, service in on_s3.items()
        ]


async def _use(
    name: str, service: ServiceConfiguration, options: Mapping[str, Any], configuration: Configuration
) -> BucketUse:
    return await bucket_use(name, service.type, options, f"{service.where}: {name}", configuration.access)


def the_bucket(named: str, uses: Sequence[BucketUse]) -> str:
    """
    Return the bucket that was named, or the only one that the configuration uses.

    Raises:
        ConfigurationError: there is none, or more than one.
    """
    buckets = sorted({use.bucket for use in uses})
    if named or len(buckets) == 1:
        return named or buckets[0]
    if buckets:
        raise ConfigurationError(f"the configuration uses several buckets: name one of {', '.join(buckets)}")
    raise ConfigurationError("no service of the configuration is on S3: name a bucket, or give --config FILE")


def admin_settings(
    bucket: str, uses: Sequence[BucketUse], *, region: str = "", profile: str = "", endpoint_url: str = ""
) -> AwsSettings:
    """
    Return how a bucket is reached: as the service that uses it says, or any other, but for what the command says.

    Raises:
        ConfigurationError: what was said is wrong.
    """
    near = next((use.settings for use in uses if use.bucket == bucket), None)
    if near is not None:
        return reached(near, region=region, profile=profile, endpoint_url=endpoint_url)
    # Of another bucket, only how AWS is reached holds for this one too.
    far = uses[0].settings if uses else AwsSettings()
    return reached(far, region=region, profile=profile, endpoint_url=endpoint_url, left_out=_OF_OBJECTS)


def reached(
    settings: AwsSettings,
    *,
    region: str = "",
    profile: str = "",
    endpoint_url: str = "",
    left_out: Collection[str] = (),
) -> AwsSettings:
    """
    Return settings of AWS without those of the service, but for what the command says, and without what is left out.

    Raises:
        ConfigurationError: what was said is wrong.
    """
    found = settings.model_dump(exclude_unset=True)
    known = {key: value for key, value in found.items() if key in AwsSettings.model_fields and key not in left_out}
    said: dict[str, Any] = {key: value for key, value in (("region", region), ("endpoint_url", endpoint_url)) if value}
    if profile:
        # The role and the variables of a configuration are those of its workers.
        said |= {"aws_profile": profile, "use_credentials": False, "role_arn": ""}
    return AwsSettings.parse(known | said, "what was said of AWS")


def accesses_of(uses: Sequence[BucketUse]) -> list[BucketAccess]:
    """
    Return what is done with each bucket, by each role: services that share both share their documents.

    What is only read is apart: to write there is granted to nobody.
    """
    groups: dict[tuple[str, str, str, bool], list[BucketUse]] = {}
    for use in uses:
        settings, writes = use.settings, use.access.allow_write
        groups.setdefault((use.bucket, settings.role_arn, settings.multipart_upload_role_arn, writes), []).append(use)
    return [
        BucketAccess(
            bucket=bucket,
            prefixes=tuple(use.prefix for use in group),
            region=group[0].settings.region,
            kms_keys=tuple(dict.fromkeys(key for use in group if (key := use.settings.kms_key_arn))),
            object_tags=any(use.settings.object_tags for use in group),
            role_arn=role,
            multipart_role_arn=multipart_role,
            writes=writes,
            session_duration_s=max(use.settings.session_duration_in_seconds for use in group),
        )
        for (bucket, role, multipart_role, writes), group in groups.items()
    ]
