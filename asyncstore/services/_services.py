"""The run-log store, the catalog and the secrets that belong together, opened and closed as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncstore._core.access import UNRESTRICTED
from asyncstore._core.resource import Resource
from asyncstore.recorder import RunRecorder
from asyncstore.services._checking import check_services
from asyncstore.services._making import make_catalog, make_run_log_store, make_secrets
from asyncstore.services.configuration import read_configuration

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from contextlib import AsyncExitStack
    from typing import Any

    from pydantic import JsonValue

    from asyncstore._core.access import Access
    from asyncstore.catalog import Catalog
    from asyncstore.runlog.base import RunLogStore
    from asyncstore.secrets import SecretsProvider
    from asyncstore.services._checking import ServiceCheck
    from asyncstore.services.configuration import Configuration

__all__ = ["Services", "open_services"]


class Services(Resource):
    """
    A run-log store, a catalog and secrets, opened together and closed together.

    Opening fails as a whole, and closes what was open already, if one of them cannot be opened.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        store: str | None = None,
        catalog_options: Mapping[str, Any] | None = None,
        reads: bool = False,
        writes: bool = False,
    ) -> None:
        super().__init__()
        self._config = config
        self._store = store
        self._catalog_options = dict(catalog_options or {})
        self._needs = {"read": reads, "write": writes}
        self._access = UNRESTRICTED
        self._configuration: Configuration | None = None
        self._secrets: SecretsProvider | None = None
        self._run_log_store: RunLogStore | None = None
        self._catalog: Catalog | None = None

    def __repr__(self) -> str:
        store = f" of store {self._store!r}, {self._access}:" if self._store else ""
        return f"<Services{store} {self._run_log_store!r} {self._catalog!r} {self._state}>"

    @property
    def store(self) -> str:
        """The name of the store that these services are of, empty where the configuration names none."""
        return self._store or ""

    @property
    def access(self) -> Access:
        """What may be done with them, which is known once they are open."""
        self._check_open()
        return self._access

    @property
    def run_log_store(self) -> RunLogStore:
        """Where runs are logged."""
        self._check_open()
        assert self._run_log_store is not None
        return self._run_log_store

    @property
    def catalog(self) -> Catalog:
        """Where the data of runs is kept."""
        self._check_open()
        assert self._catalog is not None
        return self._catalog

    @property
    def secrets(self) -> SecretsProvider:
        """Where placeholders are filled from."""
        self._check_open()
        assert self._secrets is not None
        return self._secrets

    async def check(self) -> list[ServiceCheck]:
        """
        Try what the run-log store and the catalog do with their bucket, database or folder, and return what was found.

        In a bucket and a folder a small test object is written and removed again. Permissions and settings that are
        missing are named, with the statement that grants them; nothing is raised for them.
        """
        self._check_open()
        assert self._configuration is not None
        return await check_services(self._configuration, self.secrets)

    def run(
        self,
        run_id: str | None = None,
        *,
        tag: str = "",
        parameters: Mapping[str, JsonValue] | None = None,
        dag_hash: str = "",
        run_config: Mapping[str, JsonValue] | None = None,
        use_cached: bool = False,
        original_run_id: str = "",
    ) -> RunRecorder:
        """
        Return a recorder of a new run; ``async with`` creates the run and, at its end, says how it ended.

        Args:
            run_id: names the run; by default a new readable name, in order of time.
            tag: what listings can select by.
            parameters: the run's first parameters.
            dag_hash: identifies the pipeline's definition.
            run_config: whatever else the run was started with.
            use_cached: whether the run continues ``original_run_id``.
            original_run_id: the run that this one repeats or continues.
        """
        return RunRecorder(
            self.run_log_store,
            self.catalog,
            run_id,
            tag=tag,
            parameters=parameters,
            dag_hash=dag_hash,
            run_config=run_config,
            use_cached=use_cached,
            original_run_id=original_run_id,
        )

    async def _open(self, stack: AsyncExitStack) -> None:
        configuration = await read_configuration(self._config, self._store)
        configuration.access.require(**self._needs)
        self._store, self._access = configuration.store, configuration.access
        self._configuration = configuration
        self._secrets = await stack.enter_async_context(await make_secrets(configuration))
        self._run_log_store = await stack.enter_async_context(await make_run_log_store(configuration, self._secrets))
        self._catalog = await stack.enter_async_context(
            await make_catalog(configuration, self._secrets, self._catalog_options)
        )


def open_services(
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    store: str | None = None,
    catalog_options: Mapping[str, Any] | None = None,
    reads: bool = False,
    writes: bool = False,
) -> Services:
    """
    Return the services that ``config`` describes; ``async with`` opens and closes them.

    Args:
        config: path of a YAML file, or the mapping that it would hold. Without it, and for a run-log store or catalog
            that it does not name, the embedded default: an SQLite run log and a folder catalog under ``.asyncstore/``
            in the working folder.
        store: which of the stores that ``config`` names; its default one without it.
        catalog_options: keys of the catalog's configuration that go before those in ``config``, such as
            ``max_bandwidth_mb_s``.
        reads: refuse to open a store that does not allow reading, instead of refusing to be read later.
        writes: likewise for writing.

    Opening raises :class:`ConfigurationError` for a configuration that is wrong, and :class:`AccessModeError` where the
    store does not allow what it is opened for, before any request is made.
    """
    return Services(config, store=store, catalog_options=catalog_options, reads=reads, writes=writes)
