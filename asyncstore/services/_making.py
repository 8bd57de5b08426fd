"""Services made from their configuration: placeholders filled, classes loaded, nothing opened yet."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncstore._core.placeholders import escape, fill, placeholder_names
from asyncstore.errors import ConfigurationError
from asyncstore.services.configuration import TYPES, ServiceConfiguration

if TYPE_CHECKING:
    from asyncstore._core.placeholders import SecretSource
    from asyncstore.catalog import Catalog
    from asyncstore.runlog.base import RunLogStore
    from asyncstore.secrets import SecretsProvider
    from asyncstore.services.configuration import Configuration

__all__ = [
    "embedded_catalog",
    "embedded_database",
    "filled",
    "load",
    "make_catalog",
    "make_run_log_store",
    "make_secrets",
    "make_tables",
    "tables_as_sql",
]

EMBEDDED_FOLDER = Path(".asyncstore")
"""Where the embedded default keeps everything, below the working folder."""

EMBEDDED_DATABASE = "run_logs.db"


async def make_secrets(configuration: Configuration) -> SecretsProvider:
    """
    Make the secrets provider, not yet open.

    Raises:
        ConfigurationError: its options are wrong, or hold placeholders, which nothing could fill.
    """
    wanted = configuration.secrets or ServiceConfiguration("do-nothing")
    for key, value in wanted.options.items():
        for name in _placeholders(value):
            raise ConfigurationError(
                f"{wanted.where}: secrets: {key!r} holds the placeholder {name!r}, and secrets cannot be filled from "
                "themselves: write the value itself"
            )
    provider: SecretsProvider = await _made("secrets", wanted, wanted.options)
    return provider


async def make_run_log_store(configuration: Configuration, secrets: SecretSource) -> RunLogStore:
    """
    Make the run-log store, not yet open, its placeholders filled and its access mode set.

    The embedded one gets its folder and tables, unless it may not be written.
    """
    wanted = configuration.run_log_store
    if wanted is None:
        if configuration.access.allow_write:
            await make_tables(configuration, secrets)
        wanted = await embedded_database(configuration)
    # The database store fills its connection string itself: values need quoting there.
    options = {**wanted.options, "secrets": secrets} if wanted.type == "db" else await filled(wanted.options, secrets)
    store: RunLogStore = await _made("run_log_store", wanted, options)
    store.restrict(configuration.access)
    return store


async def make_catalog(
    configuration: Configuration, secrets: SecretSource, overrides: Mapping[str, Any] | None = None
) -> Catalog:
    """
    Make the catalog, not yet open, its placeholders filled and its access mode set.

    ``overrides`` go before its options, as they are; a catalog that keeps nothing has no options.
    """
    wanted = configuration.catalog
    if wanted is None:
        wanted = await embedded_catalog(configuration)
        # As it is: its path may hold what looks like a placeholder.
        options = wanted.options
    else:
        options = await filled(wanted.options, secrets)
    if overrides and wanted.type != "do-nothing":
        options = {**options, **overrides}
    catalog: Catalog = await _made("catalog", wanted, options)
    catalog.restrict(configuration.access)
    return catalog


async def make_tables(
    configuration: Configuration, secrets: SecretSource, connection_string: str = "", schema: str = ""
) -> str:
    """
    Make the tables of the configured run log, or of ``connection_string``, and return where they are.

    ``schema`` goes before the configured one.

    Raises:
        ConfigurationError: the run log is not in a database, or see :func:`asyncstore.create_tables`.
        AccessModeError: the configured run log may not be written.
    """
    embedded = not connection_string and configuration.run_log_store is None
    if connection_string:
        wanted = ServiceConfiguration("db", {"connection_string": connection_string})
    else:
        configuration.access.require(write=True)
        wanted = configuration.run_log_store or await embedded_database(configuration)
    if wanted.type != "db":
        raise ConfigurationError(f"{wanted.where}: the run-log store is of type {wanted.type!r}, which has no tables")
    options = {**wanted.options, "schema": schema} if schema else wanted.options
    store: RunLogStore = await _made("run_log_store", wanted, {**options, "secrets": secrets})
    create_tables = await asyncio.to_thread(load, "asyncstore.runlog.db:create_tables")
    # The other keys are about the use of the tables.
    taken = inspect.signature(create_tables).parameters
    await create_tables(**{key: value for key, value in options.items() if key in taken}, secrets=secrets)
    # Until it is open, a store knows its place only as written, with the dollar signs of a path escaped.
    return str(await _embedded_folder(configuration) / EMBEDDED_DATABASE) if embedded else store.location


async def tables_as_sql(configuration: Configuration, dialect: str = "", schema: str = "") -> str:
    """
    Return what :func:`make_tables` executes on an empty database, as SQL; no connection is made.

    Args:
        configuration: whose database it is for, as far as ``dialect`` and ``schema`` are not given.
        dialect: ``postgresql``, ``sqlite`` or ``mysql``; else that of the configured connection string, and
            ``postgresql`` if there is none, or it is a placeholder as a whole.
        schema: the schema that the table is to lie in.

    Raises:
        ConfigurationError: there is no such dialect here, or it has no schemas.
    """
    wanted = configuration.run_log_store
    options = wanted.options if wanted is not None and wanted.type == "db" else {}
    own = _dialect_of(str(options.get("connection_string", "")))
    dialect = dialect or own or "postgresql"
    if not schema and dialect == own:
        schema = str(options.get("schema") or "")
    table_sql = await asyncio.to_thread(load, "asyncstore.runlog.db:table_sql")
    return str(table_sql(dialect, schema))


def _dialect_of(connection_string: str) -> str:
    scheme, separator, _ = connection_string.strip().partition("://")
    name = scheme.partition("+")[0]
    return {"postgres": "postgresql", "mariadb": "mysql"}.get(name, name) if separator else ""


async def embedded_database(configuration: Configuration) -> ServiceConfiguration:
    """Return the run-log store of a configuration that names none; its folder is made where it may be written."""
    database = (await _embedded_folder(configuration)) / EMBEDDED_DATABASE
    access = configuration.access
    if not access.allow_write and not await asyncio.to_thread(database.exists):
        raise ConfigurationError(f"there is no {database} to read, and {access.whose} does not allow making it")
    # What a path needs escaped in a URL differs between versions of SQLAlchemy.
    url = (await asyncio.to_thread(load, "sqlalchemy.engine:URL")).create("sqlite", database=str(database))
    return ServiceConfiguration("db", {"connection_string": escape(url.render_as_string())})


async def embedded_catalog(configuration: Configuration) -> ServiceConfiguration:
    """Return the catalog of a configuration that names none; its folder is made where it may be written."""
    folder = (await _embedded_folder(configuration)) / "catalog"
    return ServiceConfiguration("file-system", {"catalog_location": str(folder)})


async def _embedded_folder(configuration: Configuration) -> Path:
    # Absolute, so that a later change of the working folder does not move the stores.
    folder = await asyncio.to_thread(EMBEDDED_FOLDER.absolute)
    if configuration.access.allow_write:
        await asyncio.to_thread(_make_folder, folder)
    return folder


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make the folder {folder} of the embedded default: {error.strerror}; "
            "work in a folder that you can write to, or name other services in a configuration"
        ) from error


async def _made(service: str, wanted: ServiceConfiguration, options: Mapping[str, Any]) -> Any:
    try:
        # In a thread: it imports, and folders are made absolute.
        return await asyncio.to_thread(_make, service, wanted, options)
    except ConfigurationError as error:
        if not wanted.where:
            raise
        raise ConfigurationError(f"{wanted.where}: {error}") from error


def _make(service: str, wanted: ServiceConfiguration, options: Mapping[str, Any]) -> Any:
    cls = load(TYPES[service][wanted.type])
    # Only settings can be configured, and not the objects that a program may give beside them.
    given = inspect.signature(cls.__init__).parameters.values()
    for parameter in given:
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name in wanted.options:
            raise ConfigurationError(f"{service} {wanted.type!r}: unknown key {parameter.name!r}")
    return cls(**options)


def load(home: str) -> Any:
    """Return what ``module:name`` names; imports, so it may block for half a second."""
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)


def _placeholders(value: Any) -> list[str]:
    if isinstance(value, str):
        return placeholder_names(value)
    if isinstance(value, Mapping):
        return [name for item in value.values() for name in _placeholders(item)]
    return [name for item in value for name in _placeholders(item)] if isinstance(value, list) else []


async def filled(value: Any, secrets: SecretSource) -> Any:
    """Return options, however nested, with their placeholders filled."""
    if isinstance(value, str):
        return await fill(value, secrets)
    if isinstance(value, Mapping):
        return {key: await filled(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [await filled(item, secrets) for item in value]
    return value
