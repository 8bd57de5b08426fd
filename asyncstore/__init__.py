"""
Run logs and data catalogs for async pipelines, on S3, in a SQL database or in a folder.

Names are loaded when they are first used: ``import asyncstore`` alone costs next to nothing, and who keeps everything
in a folder never waits for the AWS libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncstore.catalog import (
        Catalog,
        DoNothingCatalog,
        FileSystemCatalog,
        PresignedPost,
        PresignedUrl,
        S3Catalog,
    )
    from asyncstore.errors import (
        AccessDeniedError,
        AccessModeError,
        AlreadyExistsError,
        AsyncStoreError,
        BranchLogNotFoundError,
        ClosedError,
        ConfigurationError,
        ConflictError,
        CredentialsError,
        IntegrityError,
        InvalidValueError,
        JobLogNotFoundError,
        NotFoundError,
        OutcomeUnknownError,
        RunLogExistsError,
        RunLogNotFoundError,
        StepLogNotFoundError,
        TransferError,
        UnavailableError,
        UnsafePathError,
    )
    from asyncstore.models import (
        BranchLog,
        CodeIdentity,
        DataCatalog,
        JobLog,
        RunLog,
        RunSummary,
        StepAttempt,
        StepLog,
    )
    from asyncstore.recorder import BranchRecorder, RunRecorder, StepRecorder
    from asyncstore.runlog.base import RunLogStore
    from asyncstore.runlog.buffered import BufferedRunLogStore
    from asyncstore.runlog.chunked import ChunkedFileSystemRunLogStore, ChunkedS3RunLogStore
    from asyncstore.runlog.db import DBRunLogStore, create_tables
    from asyncstore.runlog.document import FileSystemRunLogStore, S3RunLogStore
    from asyncstore.runlog.fragments import Fragment
    from asyncstore.secrets import (
        AwsSecretsManagerSecrets,
        DoNothingSecrets,
        DotenvSecrets,
        EnvSecrets,
        SecretsProvider,
    )
    from asyncstore.services import Services, open_services

__all__ = [
    "AccessDeniedError",
    "AccessModeError",
    "AlreadyExistsError",
    "AsyncStoreError",
    "AwsSecretsManagerSecrets",
    "BranchLog",
    "BranchLogNotFoundError",
    "BranchRecorder",
    "BufferedRunLogStore",
    "Catalog",
    "ChunkedFileSystemRunLogStore",
    "ChunkedS3RunLogStore",
    "ClosedError",
    "CodeIdentity",
    "ConfigurationError",
    "ConflictError",
    "CredentialsError",
    "DBRunLogStore",
    "DataCatalog",
    "DoNothingCatalog",
    "DoNothingSecrets",
    "DotenvSecrets",
    "EnvSecrets",
    "FileSystemCatalog",
    "FileSystemRunLogStore",
    "Fragment",
    "IntegrityError",
    "InvalidValueError",
    "JobLog",
    "JobLogNotFoundError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PresignedPost",
    "PresignedUrl",
    "RunLog",
    "RunLogExistsError",
    "RunLogNotFoundError",
    "RunLogStore",
    "RunRecorder",
    "RunSummary",
    "S3Catalog",
    "S3RunLogStore",
    "SecretsProvider",
    "Services",
    "StepAttempt",
    "StepLog",
    "StepLogNotFoundError",
    "StepRecorder",
    "TransferError",
    "UnavailableError",
    "UnsafePathError",
    "create_tables",
    "open_services",
]

_HOMES = {
    "asyncstore.services": ("Services", "open_services"),
    "asyncstore.recorder": ("BranchRecorder", "RunRecorder", "StepRecorder"),
    "asyncstore.runlog.base": ("RunLogStore",),
    "asyncstore.runlog.buffered": ("BufferedRunLogStore",),
    "asyncstore.runlog.chunked": ("ChunkedFileSystemRunLogStore", "ChunkedS3RunLogStore"),
    "asyncstore.runlog.db": ("DBRunLogStore", "create_tables"),
    "asyncstore.runlog.document": ("FileSystemRunLogStore", "S3RunLogStore"),
    "asyncstore.runlog.fragments": ("Fragment",),
    "asyncstore.catalog": (
        "Catalog",
        "DoNothingCatalog",
        "FileSystemCatalog",
        "PresignedPost",
        "PresignedUrl",
        "S3Catalog",
    ),
    "asyncstore.secrets": (
        "AwsSecretsManagerSecrets",
        "DoNothingSecrets",
        "DotenvSecrets",
        "EnvSecrets",
        "SecretsProvider",
    ),
    "asyncstore.models": (
        "BranchLog",
        "CodeIdentity",
        "DataCatalog",
        "JobLog",
        "RunLog",
        "RunSummary",
        "StepAttempt",
        "StepLog",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF.get(name, "asyncstore.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
