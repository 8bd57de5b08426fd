"""The AWS configuration keys, as the older tools wrote them, and ours besides; one settings object for both engines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from asyncstore._core.settings import Settings

__all__ = ["AwsSettings"]


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
    max_concurrency: int = Field(default=64, ge=1, le=1024)
    """Most requests in flight for one operation."""
    max_memory_mb: int = Field(default=128, ge=16)
    """Most bytes in flight for one operation, in MiB."""

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http:// or https:// URL")
        if parts.username or parts.password:
            raise ValueError("must not hold credentials")
        return value.rstrip("/")

    @property
    def endpoint(self) -> str | None:
        """The endpoint in force, ``None`` for AWS itself."""
        environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return self.endpoint_url or (environment.rstrip("/") if environment else None)

    @property
    def path_style(self) -> bool:
        """Whether the bucket stands in the path of a URL."""
        if self.addressing_style != "auto":
            return self.addressing_style == "path"
        return self.endpoint is not None

    @property
    def ca_bundle(self) -> Path | None:
        """CA certificates to trust besides the system's (``AWS_CA_BUNDLE``), if any are needed."""
        name = os.environ.get("AWS_CA_BUNDLE")
        return Path(name) if name and not (self.endpoint or "").startswith("http:") else None
