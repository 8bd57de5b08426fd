"""
Configuration, read and checked: which types of services there are, and what a file says about them.

Pure but for reading the file.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from asyncstore._core.access import UNRESTRICTED, Access
from asyncstore._core.settings import unknown_key
from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    import os

__all__ = [
    "TYPES",
    "Configuration",
    "ServiceConfiguration",
    "StoreConfiguration",
    "parse_configuration",
    "read_configuration",
]

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
        "aws-secrets-manager": "asyncstore.secrets.aws:AwsSecretsManagerSecrets",
        "do-nothing": "asyncstore.secrets:DoNothingSecrets",
        "dotenv": "asyncstore.secrets:DotenvSecrets",
        "env-secrets": "asyncstore.secrets:EnvSecrets",
    },
}
"""
Every type of every service, and its class.

Classes are loaded when they are wanted: who logs to SQLite does not wait for the AWS libraries.
"""

_SPELLINGS = {
    "run_log_store": "run_log_store",
    "run-log-store": "run_log_store",
    "run_log": "run_log_store",
    "catalog": "catalog",
    "secrets": "secrets",
}
_MODES = ("allow_read", "allow_write")
_STORES = "stores"
_QUOTES_NEEDED = "a value that begins with a brace or bracket needs quotes around it"
_STORE_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, slots=True)
class ServiceConfiguration:
    """What one service is to be: a known type and the keyword arguments of its class."""

    type: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    where: str = ""
    """Where it was read, for messages."""


@dataclass(frozen=True, slots=True)
class StoreConfiguration:
    """One of several named stores; what they share is in each of them, and ``None`` stands for the embedded default."""

    name: str
    run_log_store: ServiceConfiguration | None = None
    catalog: ServiceConfiguration | None = None
    access: Access = UNRESTRICTED
    default: bool = False
    """Whether it is the one that is opened where none is named."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """
    What all services are to be; ``None`` stands for the embedded default.

    Where several stores are named, the run-log store, the catalog and the access mode are those of the default one,
    until another one is selected.
    """

    run_log_store: ServiceConfiguration | None = None
    catalog: ServiceConfiguration | None = None
    secrets: ServiceConfiguration | None = None
    access: Access = UNRESTRICTED
    store: str = ""
    """The name of the store whose services these are, empty where none is named."""
    stores: Mapping[str, StoreConfiguration] = field(default_factory=dict)
    """All named stores, in the order of the file."""
    where: str = field(default="configuration", compare=False)
    """Where it was read, for messages."""

    def select(self, name: str | None) -> Configuration:
        """
        Return the same configuration with the services of another store; ``None`` is the default one.

        Raises:
            ConfigurationError: there is no store of that name.
        """
        if name is None:
            name = next((store.name for store in self.stores.values() if store.default), None)
            return self if name is None else self.select(name)
        if name not in self.stores:
            raise ConfigurationError(_unknown_store(name, self.stores, self.where))
        store = self.stores[name]
        return replace(
            self, run_log_store=store.run_log_store, catalog=store.catalog, access=store.access, store=store.name
        )

    def every_store(self) -> list[Configuration]:
        """Return a configuration for each named store, in the order of the file; itself alone where none is named."""
        return [self.select(name) for name in self.stores] or [self]


async def read_configuration(
    config: str | os.PathLike[str] | Mapping[str, Any] | None, store: str | None = None
) -> Configuration:
    """
    Read and check a configuration, without opening anything; see :func:`open_services`.

    Raises:
        ConfigurationError: the file is missing or not YAML, or holds unknown keys or types, or no such store.
    """
    if config is None:
        return Configuration().select(store)
    if isinstance(config, Mapping):
        return parse_configuration(config, "configuration").select(store)
    path = Path(config)
    return parse_configuration(await asyncio.to_thread(_load_yaml, path), str(path)).select(store)


def parse_configuration(document: object, where: str) -> Configuration:
    """Check a configuration that was read from ``where``; see :func:`read_configuration`."""
    if document is None:
        return Configuration(where=where)
    if not isinstance(document, Mapping):
        raise ConfigurationError(f"{where}: must be a mapping of services, not {type(document).__name__}")
    spelled = _spelled(document, where, [*_SPELLINGS, *_MODES, _STORES])
    services = {service: _parse_service(service, document[key], where) for service, key in spelled.items()}
    if _STORES not in document:
        return replace(_configuration(services, where), access=access_of(document, where, where))
    for key in _MODES:
        if key in document:
            raise ConfigurationError(f"{where}: where there are {_STORES!r}, {key!r} is said in each of them")
    stores = _parse_stores(document[_STORES], services, where)
    return replace(_configuration(services, where), stores=stores).select(None)


def _configuration(services: Mapping[str, ServiceConfiguration], where: str) -> Configuration:
    return Configuration(services.get("run_log_store"), services.get("catalog"), services.get("secrets"), where=where)


def _spelled(section: Mapping[Any, Any], where: str, known: list[str]) -> dict[str, str]:
    """Return how each service is spelled in ``section``, whose keys are among ``known``."""
    spelled: dict[str, str] = {}
    for key in section:
        if key not in known:
            raise ConfigurationError(f"{where}: {unknown_key(str(key), known)}")
        service = _SPELLINGS.get(key)
        if service is None:
            continue
        if service in spelled:
            raise ConfigurationError(f"{where}: {spelled[service]!r} and {key!r} are the same key: give one of them")
        spelled[service] = key
    return spelled


def _parse_stores(
    section: object, shared: Mapping[str, ServiceConfiguration], where: str
) -> dict[str, StoreConfiguration]:
    if not isinstance(section, Mapping) or not section:
        raise ConfigurationError(f"{where}: {_STORES}: must be a mapping of names to stores")
    for name in section:
        if not isinstance(name, str) or not _STORE_NAME.fullmatch(name):
            raise ConfigurationError(
                f"{where}: {_STORES}: {name!r} cannot name a store: take letters, digits, '.', '_' and '-'"
            )
    stores = {name: _parse_store(name, store, shared, f"{where}: {_STORES}.{name}") for name, store in section.items()}
    defaults = [name for name, store in stores.items() if store.default]
    if len(stores) == 1:
        return {name: replace(store, default=True) for name, store in stores.items()}
    if len(defaults) > 1:
        raise ConfigurationError(f"{where}: {_STORES}: {', '.join(defaults)} are all the default: only one can be")
    if not defaults:
        raise ConfigurationError(
            f"{where}: {_STORES}: none of {', '.join(stores)} is the default: give one of them 'default: true'"
        )
    return stores


def _parse_store(
    name: str, section: object, shared: Mapping[str, ServiceConfiguration], where: str
) -> StoreConfiguration:
    if not isinstance(section, Mapping):
        raise ConfigurationError(f"{where}: must be a mapping with 'run_log_store', 'catalog' or both")
    if "secrets" in section:
        raise ConfigurationError(f"{where}: all stores have the same 'secrets': give them beside {_STORES!r}")
    known = [*(key for key in _SPELLINGS if key != "secrets"), "default", *_MODES]
    spelled = _spelled(section, where, known)
    own = {service: _parse_service(service, section[key], where) for service, key in spelled.items()}
    return StoreConfiguration(
        name,
        own.get("run_log_store") or shared.get("run_log_store"),
        own.get("catalog") or shared.get("catalog"),
        access_of(section, f"store {name!r}", where),
        default=_flag(section, "default", where),
    )


def access_of(section: Mapping[Any, Any], whose: str, where: str) -> Access:
    allowed = {key: _flag(section, key, where, default=True) for key in _MODES}
    if not any(allowed.values()):
        raise ConfigurationError(f"{where}: {' and '.join(_MODES)} are both false: nothing could be done with it")
    return Access(**allowed, whose=whose)


def _flag(section: Mapping[Any, Any], key: str, where: str, *, default: bool = False) -> bool:
    value = section.get(key, default)
    if not isinstance(value, bool):
        raise ConfigurationError(f"{where}: {key!r} must be true or false")
    return value


def _unknown_store(name: str, known: Mapping[str, object], where: str) -> str:
    if not known:
        return f"{where}: there is no store {name!r}: no stores are named here, they would be under {_STORES!r}"
    near = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {near[0]!r}? " if near else ""
    return f"{where}: there is no store {name!r}, {advice}known are {', '.join(known)}"


class _Loader(yaml.SafeLoader):
    """
    Refuses a mapping that gives a key twice, of which YAML's own loader silently takes the last.

    It also refuses keys that are no text, which are what the templates of other tools look like, ``{{ name }}``.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                kind = "mapping" if isinstance(key, yaml.MappingNode) else "list"
                problem = f"a {kind} stands where a key is expected: {_QUOTES_NEEDED}"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(problem="a key is given twice", problem_mark=key.start_mark)
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
    options = section.get("config")
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"{where}: 'config' must be a mapping")
    named = {str(key): value for key, value in options.items()}
    return ServiceConfiguration(_known_type(service, section["type"], where), named, source)


def _known_type(service: str, name: object, where: str) -> str:
    types = TYPES[service]
    if isinstance(name, str) and name in types:
        return name
    near = difflib.get_close_matches(str(name), types, n=1)
    advice = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigurationError(f"{where}: unknown type {name!r}, {advice}known are {', '.join(types)}")
