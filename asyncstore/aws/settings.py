"""The AWS configuration keys, as the older tools wrote them, and ours besides; one settings object for both engines."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from asyncstore._core.settings import Settings
from asyncstore.aws._endpoints import checked_endpoint, is_aws
from asyncstore.errors import ConfigurationError

__all__ = ["AwsSettings"]

_SESSION_NAME = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
_REGION = re.compile(r"[A-Za-z0-9._-]+")
_TAG = re.compile(r"[A-Za-z0-9 +\-=._:/@]*")
_HEADER = re.compile(r"[!-~]*")
_METADATA_NAME = re.compile(r"[a-z0-9._-]+")
_METADATA_VALUE = re.compile(r"[ -~]*")

TAG_LIMIT = 10
TAG_NAME_LIMIT = 128
TAG_VALUE_LIMIT = 256
METADATA_LIMIT_BYTES = 2048 - 256
"""S3's 2 KiB for names and values together, less what asyncstore writes itself."""

OWN_METADATA = "asyncstore"
"""What the names of asyncstore's own metadata begin with."""

TAKEN_METADATA = {
    *("sha256", "mode", "mtime"),
    *("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"),
    "storage-class",
}
"""What the catalog says of a file, and headers that one of the engines takes for the real ones."""


class AwsSettings(Settings):
    """How to reach AWS, or anything that speaks S3; the defaults are those of the older tools."""

    aws_profile: str = ""
    """Profile of the shared configuration; empty means the default chain (environment, files, container, instance)."""
    use_credentials: bool = False
    """Take the keys from the environment variables named below, and from nowhere else."""
    region: str = "eu-west-1"
    """Region of the bucket and of STS."""
    aws_credentials_file: str = "~/.aws/credentials"
    """Shared credentials file, for profiles."""
    aws_access_key_name: str = "AWS_ACCESS_KEY_ID"
    """Environment variable that holds the access key id, with ``use_credentials``."""
    aws_secret_access_key_name: str = "AWS_SECRET_ACCESS_KEY"
    """Environment variable that holds the secret access key, with ``use_credentials``."""
    aws_session_key_name: str = "AWS_SESSION_TOKEN"
    """Environment variable that holds the session token, if there is one, with ``use_credentials``."""
    role_arn: str = ""
    """Role to assume with the credentials found; empty means none."""
    session_duration_in_seconds: int = Field(default=900, ge=900, le=43_200)
    """Lifetime of the role's credentials in seconds; they are renewed before they expire."""
    role_session_name: str = ""
    """What sessions of roles are called in CloudTrail; empty means ``asyncstore-`` and the name of the host."""
    insecure: bool = False
    """Let an endpoint of ``http://`` be on another host, where anybody on the way can read and change what is sent."""
    allow_link_local: bool = False
    """Let an endpoint have a link-local address, as the metadata services of clouds have."""
    endpoint_url: str | None = None
    """Another S3 server than AWS'; default: ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL`` of the environment."""
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """Bucket in the path or in the host name; ``auto`` is the path for other servers and the host name for AWS."""
    multipart_upload_role_arn: str = ""
    """Role for multipart uploads alone; empty means that the credentials at hand do."""
    kms_key_arn: str = ""
    """Key for SSE-KMS of what is written; empty means the bucket's default encryption."""
    storage_class: str = ""
    """Storage class of what is written; empty means the bucket's default."""
    object_tags: dict[str, str] = Field(default_factory=dict)
    """Tags of what is written, for policies, lifecycle rules and bills; ten at most. A copy gets them too."""
    user_metadata: dict[str, str] = Field(default_factory=dict)
    """Metadata of what is written, beside asyncstore's own; names are stored in lower case. A copy gets them too."""
    max_concurrency: int = Field(default=64, ge=1, le=1024)
    """Most requests in flight for one operation."""
    max_memory_mb: int = Field(default=128, ge=16)
    """Most bytes in flight for one operation, in MiB."""

    @field_validator("role_session_name")
    @classmethod
    def _check_session_name(cls, value: str) -> str:
        if value and not _SESSION_NAME.fullmatch(value):
            raise ConfigurationError("it must be 2 to 64 of letters, digits and + = , . @ - _")
        return value

    @field_validator("region")
    @classmethod
    def _check_region(cls, value: str) -> str:
        # It becomes part of a host name.
        if not _REGION.fullmatch(value):
            raise ConfigurationError("it must be the name of a region: letters, digits, '-', '.' and '_'")
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, value: str | None, info: ValidationInfo) -> str | None:
        # The keys that it depends on come before it; one that is wrong itself is missing here.
        allowed = {key: bool(info.data.get(key)) for key in ("insecure", "allow_link_local")}
        return checked_endpoint(value, "it", **allowed) if value else None

    @field_validator("object_tags")
    @classmethod
    def _check_tags(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) > TAG_LIMIT:
            raise ConfigurationError(f"S3 allows {TAG_LIMIT} tags, not {len(value)}")
        for name, text in value.items():
            if not _TAG.fullmatch(name) or not 1 <= len(name) <= TAG_NAME_LIMIT or name.lower().startswith("aws:"):
                raise ConfigurationError(
                    f"tag {name!r} must be 1 to 128 of letters, digits, spaces and + - = . _ : / @"
                )
            if not _TAG.fullmatch(text) or len(text) > TAG_VALUE_LIMIT:
                raise ConfigurationError(
                    f"the value of tag {name!r} must be up to 256 of letters, digits, spaces and + - = . _ : / @"
                )
        return value

    @field_validator("user_metadata")
    @classmethod
    def _check_metadata(cls, value: dict[str, str]) -> dict[str, str]:
        lowered = {name.lower(): text for name, text in value.items()}
        for name, text in lowered.items():
            if name in TAKEN_METADATA:
                raise ConfigurationError(f"the metadata name {name!r} is taken: choose another one")
            if not _METADATA_NAME.fullmatch(name) or name.startswith(OWN_METADATA):
                raise ConfigurationError(
                    f"the metadata name {name!r} must be letters, digits, '-', '.' and '_', "
                    f"and must not begin with {OWN_METADATA!r}"
                )
            if not _METADATA_VALUE.fullmatch(text) or text != text.strip():
                raise ConfigurationError(f"metadata {name!r} must be printable ASCII, without spaces at its ends")
        if len(lowered) < len(value):
            raise ConfigurationError("two names of metadata differ in upper and lower case alone, and S3 has only one")
        if (size := sum(len(name) + len(text) for name, text in lowered.items())) > METADATA_LIMIT_BYTES:
            raise ConfigurationError(f"{size} bytes of metadata are more than {METADATA_LIMIT_BYTES}")
        return lowered

    @field_validator("storage_class", "kms_key_arn")
    @classmethod
    def _check_header(cls, value: str) -> str:
        if not _HEADER.fullmatch(value):
            raise ConfigurationError("it must be printable ASCII without spaces")
        return value

    @field_validator("aws_credentials_file")
    @classmethod
    def _expand_home(cls, value: str) -> str:
        return os.path.expanduser(value)

    @property
    def endpoint(self) -> str | None:
        """
        The endpoint in force, ``None`` for AWS itself.

        Raises:
            ConfigurationError: the one of the environment is not a URL, holds a password, or is unsafe and not allowed.
        """
        return self.endpoint_url or self._from_environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

    @property
    def service_url(self) -> str:
        """The endpoint in force, spelled out for AWS too, so that nothing else can be put in its place."""
        suffix = ".cn" if self.region.startswith("cn-") else ""
        return self.endpoint or f"https://s3.{self.region}.amazonaws.com{suffix}"

    @property
    def sts_endpoint(self) -> str | None:
        """Where roles are assumed, ``None`` for AWS itself; an S3 server of the environment is not asked for roles."""
        return self.endpoint_for("sts")

    def endpoint_for(self, service: str) -> str | None:
        """
        Return where another service than S3 is, ``None`` for AWS itself.

        Args:
            service: as the environment has it, in lower case: ``sts``, ``iam``, ``secrets_manager``.

        Raises:
            ConfigurationError: as with :attr:`endpoint`.
        """
        named = self._from_environment(f"AWS_ENDPOINT_URL_{service.upper()}")
        found = named or self.endpoint_url or self._from_environment("AWS_ENDPOINT_URL")
        return None if found is None or (is_aws(found) and not named) else found

    def path_style(self, bucket: str) -> bool:
        """Whether ``bucket`` stands in the path of a URL; one with dots has no certificate for a host name of its."""
        if self.addressing_style != "auto":
            return self.addressing_style == "path"
        return not is_aws(self.service_url) or "." in bucket

    @property
    def ca_bundle(self) -> Path | None:
        """CA certificates to trust besides the system's (``AWS_CA_BUNDLE``), if any are needed."""
        name = os.environ.get("AWS_CA_BUNDLE")
        return Path(name) if name and not (self.endpoint or "").startswith("http:") else None

    def _from_environment(self, *names: str) -> str | None:
        for name in names:
            if value := os.environ.get(name):
                return checked_endpoint(value, name, insecure=self.insecure, allow_link_local=self.allow_link_local)
        return None
