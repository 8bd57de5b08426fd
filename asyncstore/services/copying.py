"""Run-log stores opened on their own, and the runs that are to go from one to another, or from another tool's logs."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncstore._core.settings import unknown_key
from asyncstore.errors import ConfigurationError, NotFoundError
from asyncstore.runlog.transfer import FoundRun, Job, Layout, RunSource, chosen, place_of, place_of_service, snapshot
from asyncstore.services._making import make_run_log_store, make_secrets
from asyncstore.services.configuration import _load_yaml, access_of, read_configuration

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Collection, Mapping

    from asyncstore.runlog.base import RunLogStore
    from asyncstore.runlog.transfer import Place

__all__ = ["import_jobs", "open_run_log_store", "open_run_source", "store_jobs"]

_SPELLINGS = ("run_log_store", "run-log-store", "run_log")
_YAML = {".yaml", ".yml"}


@asynccontextmanager
async def open_run_log_store(
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    store: str | None = None,
    reads: bool = False,
    writes: bool = False,
) -> AsyncIterator[RunLogStore]:
    """Open the run-log store of a configuration, and not its catalog; see :func:`open_services`."""
    configuration = await read_configuration(config, store)
    configuration.access.require(read=reads, write=writes)
    async with (
        await make_secrets(configuration) as secrets,
        await make_run_log_store(configuration, secrets) as opened,
    ):
        yield opened


@asynccontextmanager
async def open_run_source(
    source: str,
    *,
    layout: Layout | None = None,
    endpoint_url: str | None = None,
    region: str | None = None,
    insecure: bool = False,
) -> AsyncIterator[RunSource]:
    """
    Open the logs of another tool.

    Args:
        source: a folder, ``s3://bucket/prefix``, a single document, or a YAML file in which magnus or runnable finds
            its own run-log store.
        layout: which layout to look for, instead of telling it from names.
        endpoint_url: another S3 server than AWS', with an S3 URL.
        region: the bucket's region, with an S3 URL.
        insecure: let an S3 server be on another host over ``http``.

    Raises:
        NotFoundError: there is nothing there.
        ConfigurationError: the YAML file names no store that logs can be imported from.
        AccessModeError: the YAML file says that its store is not to be read.
    """
    if Path(source).suffix in _YAML and not source.startswith("s3://"):
        if endpoint_url or region:
            raise ConfigurationError(f"--endpoint-url and --region are for s3:// only: {source} says where to read")
        place = await asyncio.to_thread(_configured_place, Path(source), insecure=insecure)
    else:
        place = await asyncio.to_thread(place_of, source, endpoint_url=endpoint_url, region=region, insecure=insecure)
    async with place.objects:
        yield RunSource(place, layout)


async def import_jobs(source: RunSource, patterns: Collection[str] = ()) -> list[Job]:
    """
    Return the runs of another tool's logs that ``patterns`` choose, oldest first.

    Raises:
        NotFoundError: there is no run log at all, or none that one of ``patterns`` chooses.
    """
    found = await source.find(patterns)
    _require_all(patterns, [run.run_id for run in found], source.location)

    def job(run: FoundRun) -> Job:
        return Job(run.run_id, lambda: source.read(run), run.layout)

    return [job(run) for run in found]


async def store_jobs(source: RunLogStore, patterns: Collection[str] = ()) -> list[Job]:
    """
    Return the runs of a store that ``patterns`` choose, oldest first.

    Raises:
        NotFoundError: there is none that one of ``patterns`` chooses.
    """
    summaries = [summary async for summary in source.list_run_logs() if chosen(summary.run_id, patterns)]
    run_ids = [summary.run_id for summary in reversed(summaries)]
    _require_all(patterns, run_ids, source.location)

    def job(run_id: str) -> Job:
        return Job(run_id, lambda: snapshot(source, run_id))

    return [job(run_id) for run_id in run_ids]


def _require_all(patterns: Collection[str], run_ids: Collection[str], where: str) -> None:
    for pattern in patterns:
        if not any(chosen(run_id, [pattern]) for run_id in run_ids):
            raise NotFoundError(f"no run {pattern!r} in {where}")


def _configured_place(path: Path, *, insecure: bool) -> Place:
    document = _load_yaml(path)
    sections = document if isinstance(document, dict) else {}
    if "stores" in sections:
        raise ConfigurationError(f"{path}: names several stores of asyncstore: use 'asyncstore runs copy --from-store'")
    access_of(sections, str(path), str(path)).require(read=True)
    named = [key for key in _SPELLINGS if key in sections]
    if len(named) != 1:
        raise ConfigurationError(f"{path}: names no run-log store: 'run_log_store', or 'run-log-store', is required")
    section = sections[named[0]]
    if not isinstance(section, dict) or not isinstance(section.get("type"), str):
        raise ConfigurationError(f"{path}: {named[0]}: must be a mapping with 'type' and 'config'")
    for key in section:
        if key not in {"type", "config"}:
            raise ConfigurationError(f"{path}: {named[0]}: {unknown_key(str(key), ['type', 'config'])}")
    options = section.get("config")
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise ConfigurationError(f"{path}: {named[0]}: 'config' must be a mapping")
    return place_of_service(section["type"], options, f"{path}: {named[0]}", insecure=insecure)
