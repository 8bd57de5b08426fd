"""Where other tools keep their run logs, as people name it and as the tools' own configuration does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from asyncstore._core.settings import Settings
from asyncstore.aws.credentials import Credentials, GivenCredentials
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import ConfigurationError, NotFoundError
from asyncstore.objects.folder import FolderObjectStore
from asyncstore.objects.s3 import S3ObjectStore
from asyncstore.runlog._keys import RunKeys
from asyncstore.runlog.settings import FolderRunLogSettings, S3RunLogSettings
from asyncstore.runlog.transfer.layouts import SUFFIX, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.objects.base import ObjectStore

__all__ = ["Place", "place_of", "place_of_service"]

_S3 = "s3://"


@dataclass(frozen=True, slots=True)
class Place:
    """Where to read; ``objects`` is not open yet, and whoever takes the place opens and closes it."""

    objects: ObjectStore
    prefix: str = ""
    """What keys begin with, empty or ending in ``/``."""
    layout: Layout | None = None
    """``None`` where it is to be told from names."""
    only: str = ""
    """The one document to read, by its run id; empty for all."""
    limit: int = 64
    """Most requests in flight."""


class _MinioSettings(Settings):
    """The configuration of runnable's ``minio`` and ``chunked-minio``, with its defaults."""

    endpoint_url: str = "http://localhost:9002"
    aws_access_key_id: str = Field(default="minioadmin", repr=False)
    aws_secret_access_key: str = Field(default="minioadmin", repr=False)
    bucket: str = "runnable/run-logs"
    """Bucket and prefix in one."""


def place_of(
    source: str, *, endpoint_url: str | None = None, region: str | None = None, insecure: bool = False
) -> Place:
    """
    Return the folder, ``s3://bucket/prefix`` or single document that ``source`` names; blocks to look at the folder.

    Args:
        source: a path or an S3 URL; credentials for S3 come from the environment, as with any AWS tool.
        endpoint_url: another S3 server than AWS'.
        region: the bucket's region.
        insecure: let the server be on another host over ``http``.

    Raises:
        NotFoundError: there is no such folder or file.
        ConfigurationError: the URL names no bucket, or an option fits only S3.
    """
    given = {"endpoint_url": endpoint_url, "region": region, "insecure": insecure}
    options = {key: value for key, value in given.items() if value}
    if source.startswith(_S3):
        bucket, _, prefix = source.removeprefix(_S3).partition("/")
        if not bucket:
            raise ConfigurationError(f"{source!r} names no bucket: write s3://bucket/prefix")
        return _on_s3({**options, "s3_bucket": bucket, "prefix": prefix}, None)
    if options:
        raise ConfigurationError(f"--{next(iter(options)).replace('_', '-')} is for s3:// only, and {source!r} is not")
    path = Path(source).expanduser()
    if path.is_dir():
        return Place(FolderObjectStore(path), limit=16)
    if path.is_file() and path.name.endswith(SUFFIX):
        stem = path.name.removesuffix(SUFFIX)
        return Place(FolderObjectStore(path.parent), layout=Layout.DOCUMENT, only=stem, limit=16)
    what = "is no folder, and no configuration in YAML" if path.exists() else "does not exist"
    raise NotFoundError(f"{path.absolute()} {what}")


def place_of_service(service_type: str, options: Mapping[str, Any], where: str, *, insecure: bool = False) -> Place:
    """
    Return where the run-log store of an older tool's configuration keeps its logs.

    Args:
        service_type: its type, in magnus' or runnable's words.
        options: its configuration.
        where: where that was read, for messages.
        insecure: let its server be on another host over ``http``, which the older tools do without a word.

    Raises:
        ConfigurationError: the type is not known or keeps no files, or its options are wrong.
    """
    try:
        match service_type:
            case "file-system" | "chunked-fs":
                settings = FolderRunLogSettings.parse(options, f"run log store {service_type!r}")
                folder = settings.log_folder.expanduser()
                if not folder.is_dir():
                    raise NotFoundError(f"{where}: there is no folder {folder.absolute()}")
                layout = Layout.DOCUMENT if service_type == "file-system" else None
                return Place(FolderObjectStore(folder), layout=layout, limit=settings.max_concurrency)
            case "s3" | "chunked-s3":
                said = {**options, "insecure": True} if insecure else options
                return _on_s3(said, Layout.DOCUMENT if service_type == "s3" else None)
            case "minio" | "chunked-minio":
                layout = Layout.MINIO if service_type == "minio" else Layout.RUNNABLE_CHUNKED
                return _on_minio(options, layout, insecure=insecure)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    raise ConfigurationError(
        f"{where}: run logs cannot be imported from a store of type {service_type!r}{_advice(service_type)}"
    )


def _advice(service_type: str) -> str:
    if service_type == "db":
        return ": 'asyncstore runs copy --from' reads databases, after 'asyncstore db create-tables'"
    if service_type.endswith("k8s-pvc"):
        return ": give the folder that the volume is mounted on instead"
    return ""


def _on_s3(options: Mapping[str, Any], layout: Layout | None) -> Place:
    settings = S3RunLogSettings.parse(options, "run log store")
    prefix = RunKeys.under(settings.prefix).prefix
    objects = S3ObjectStore(settings.s3_bucket, settings, probe_prefix=prefix)
    return Place(objects, prefix, layout, limit=settings.max_concurrency)


def _on_minio(options: Mapping[str, Any], layout: Layout, *, insecure: bool) -> Place:
    given = _MinioSettings.parse(options, "run log store 'minio'")
    bucket, _, prefix = given.bucket.strip("/").partition("/")
    settings = AwsSettings.parse({"endpoint_url": given.endpoint_url, "insecure": insecure}, "run log store 'minio'")
    keys = Credentials(given.aws_access_key_id, given.aws_secret_access_key)
    objects = S3ObjectStore(bucket, settings, credentials=GivenCredentials(settings, keys))
    return Place(objects, RunKeys.under(prefix).prefix, layout)
