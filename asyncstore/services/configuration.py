"""
Configuration, read and checked: which types of services there are, and what a file says about them.

Pure but for reading the file.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from asyncstore._core.settings import unknown_key
from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    import os

__all__ = ["TYPES", "Configuration", "ServiceConfiguration", "parse_configuration", "read_configuration"]

TYPES: Mapping[str, Mapping[str, str]] = {
    "run_log_store": {
        "buffered": "asyncstore.runlog.buffered:BufferedRunLogStore",
        "chunked-fs": "asyncstore.runlog.chunked:ChunkedFileSystemRunLogStore",
        "chunked-s3": "asyncstore.runlog.chunked:ChunkedS3RunLogStore",
        "db": "asyncstore.runlog.db:DBRunLogStore",
        "file-system": "asyncstore.runlog.document:FileSystemRunLogStore",
        "s3": "asyncstore.runlog.document:S3RunLogStore",
    },
    "catalog": {
        "do-nothing": "asyncstore.catalog.nothing:DoNothingCatalog",
        "file-system": "asyncstore.catalog.folder:FileSystemCatalog",
        "s3": "asyncstore.catalog.s3:S3Catalog",
    },
    "secrets": {
        "do-nothing": "asyncstore.secrets:DoNothingSecrets",
        "dotenv": "asyncstore.secrets:DotenvSecrets",
        "env-secrets": "asyncstore.secrets:EnvSecrets",
    },
}
"""
Every type of every service, and its class.

Classes are loaded when they are wanted: who logs to SQLite does not wait for the AWS libraries.
"""

_NOT_YET = {("secrets", "aws-secrets-manager")}
_SPELLINGS = {
    "run_log_store": "run_log_store",
    "run-log-store": "run_log_store",
    "run_log": "run_log_store",
    "catalog": "catalog",
    "secrets": "secrets",
}


@dataclass(frozen=True, slots=True)
class ServiceConfiguration:
    """What one service is to be: a known type and the keyword arguments of its class."""

    type: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    where: str = ""
    """Where it was read, for messages."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What all services are to be; ``None`` stands for the embedded default."""

    run_log_store: ServiceConfiguration | None = None
    catalog: ServiceConfiguration | None = None
    secrets: ServiceConfiguration | None = None


async def read_configuration(config: str | os.PathLike[str] | Mapping[str, Any] | None) -> Configuration:
    """
    Read and check a configuration, without opening anything; see :func:`open_services`.

    Raises:
        ConfigurationError: the file is missing or not YAML, or holds unknown keys or types.
    """
    if config is None:
        return Configuration()
    if isinstance(config, Mapping):
        return parse_configuration(config, "configuration")
    path = Path(config)
    return parse_configuration(await asyncio.to_thread(_load_yaml, path), str(path))


def parse_configuration(document: object, where: str) -> Configuration:
    """Check a configuration that was read from ``where``; see :func:`read_configuration`."""
    if document is None:
        return Configuration()
    if not isinstance(document, Mapping):
        raise ConfigurationError(f"{where}: must be a mapping of services, not {type(document).__name__}")
    spelled: dict[str, str] = {}
    for key in document:
        if key not in _SPELLINGS:
            raise ConfigurationError(f"{where}: {unknown_key(str(key), _SPELLINGS)}")
        service = _SPELLINGS[key]
        if service in spelled:
            raise ConfigurationError(f"{where}: {spelled[service]!r} and {key!r} are the same key: give one of them")
        spelled[service] = key
    return Configuration(**{service: _parse_service(service, document[key], where) for service, key in spelled.items()})


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that gives a key twice, of which YAML's own loader silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="a key is given twice", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load_yaml(path: Path) -> object:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no configuration file {path.absolute()}") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration {path.absolute()}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        # The error quotes the line, and its problem words of it: either may be a password.
        problem = re.sub(r"'[^']*'|\"[^\"]*\"", "…", error.problem or error.context or "")
        raise ConfigurationError(f"{path}:{line} is not usable YAML: {problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigurationError(f"{path}: is not YAML text in UTF-8") from None


def _parse_service(service: str, section: object, source: str) -> ServiceConfiguration:
    where = f"{source}: {service}"
    if not isinstance(section, Mapping):
        raise ConfigurationError(f"{where}: must be a mapping with 'type' and 'config'")
    for key in section:
        if key not in {"type", "config"}:
            raise ConfigurationError(f"{where}: {unknown_key(str(key), ['type', 'config'])}")
    if "type" not in section:
        raise ConfigurationError(f"{where}: 'type' is required, one of {', '.join(TYPES[service])}")
    options = section.get("config") or {}
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"{where}: 'config' must be a mapping")
    named = {str(key): value for key, value in options.items()}
    return ServiceConfiguration(_known_type(service, section["type"], where), named, source)


def _known_type(service: str, name: object, where: str) -> str:
    types = TYPES[service]
    if isinstance(name, str) and name in types:
        return name
    if (service, name) in _NOT_YET:
        raise ConfigurationError(f"{where}: type {name!r} is not available yet; known are {', '.join(types)}")
    near = difflib.get_close_matches(str(name), types, n=1)
    advice = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigurationError(f"{where}: unknown type {name!r}, {advice}known are {', '.join(types)}")
