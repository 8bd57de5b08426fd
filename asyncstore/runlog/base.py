"""
The contract of a run-log store, and everything that is the same in all of them.

A layout implements six verbs over fragments (:meth:`~RunLogStore._upsert`, :meth:`~RunLogStore._insert`,
:meth:`~RunLogStore._read`, :meth:`~RunLogStore._scan`, :meth:`~RunLogStore._headers`, :meth:`~RunLogStore._delete`);
the public methods are built on them here, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import abstractmethod
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from asyncstore._core.access import Guarded
from asyncstore.errors import (
    AsyncStoreError,
    BranchLogNotFoundError,
    JobLogNotFoundError,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLogNotFoundError,
)
from asyncstore.models import (
    CREATED,
    TERMINAL_STATUSES,
    BranchLog,
    CodeIdentity,
    DataCatalog,
    JobLog,
    RunLog,
    RunSummary,
    StepAttempt,
    StepLog,
)
from asyncstore.names import check_name, check_run_id
from asyncstore.runlog._queries import RunQuery
from asyncstore.runlog._watch import POLL_FASTEST_S, POLL_SLOWEST_S, Cursor, View, WholeView
from asyncstore.runlog.encoding import explode, fragment_of, parameter_fragment, to_model
from asyncstore.runlog.fragments import (
    HEADER,
    JOB,
    WHOLE_RUN,
    Fragment,
    FragmentKey,
    Kind,
    Selection,
    in_creation_order,
)
from asyncstore.runlog.tree import assemble, assemble_branch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from pydantic import JsonValue

__all__ = ["RunLogStore"]

Model = TypeVar("Model", RunLog, StepLog, BranchLog, JobLog)


class RunLogStore(Guarded):
    """
    A store of run logs: open it with ``async with``, await its methods from as many tasks as you like.

    On every backend:

    - An awaited write is durable when it returns.
    - Writers of different fragments never disturb each other, in one process or in many. Of two writers of one fragment
      the last acknowledged one stands, whole.
    - Steps and branches come back in creation order, and rewriting one keeps its ``created_at``.
    - Only a real "not found" is a :class:`NotFoundError`; denied is :class:`AccessDeniedError`, down is
      :class:`UnavailableError`.
    - A cancelled caller leaves nothing half-written. A write that was already on its way may still land.

    All methods raise :class:`ClosedError` unless the store is open on the running event loop,
    :class:`AccessModeError` where its access mode does not allow what they do, before any request, and
    :class:`InvalidValueError` for names and values that cannot be stored faithfully.
    """

    def __init__(self) -> None:
        super().__init__()
        self._changing: WeakValueDictionary[tuple[str, FragmentKey], asyncio.Lock] = WeakValueDictionary()

    # What a layout implements.

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the logs lie, for messages; never holds a secret."""

    @abstractmethod
    async def _upsert(self, run_id: str, fragments: Sequence[Fragment]) -> None:
        """
        Write ``fragments`` durably, replacing those of the same key whole, each keeping its first ``created_at``.

        The creation times are the layout's to find out: a model may have been read from another run, or another store.
        """

    @abstractmethod
    async def _insert(self, run_id: str, fragments: Sequence[Fragment]) -> Collection[FragmentKey]:
        """
        Write those ``fragments`` that are not there yet; return the keys of those that were, and are left alone.

        A header among them is not seen before all others are there. A fragment that comes from another store brings its
        ``created_at``, which the layouts on objects keep.
        """

    @abstractmethod
    async def _read(self, run_id: str, key: FragmentKey) -> Fragment | None:
        """Return one fragment, ``None`` if it is not there."""

    @abstractmethod
    async def _scan(
        self, run_id: str, selection: Selection, known: Mapping[FragmentKey, Fragment] | None = None
    ) -> Sequence[Fragment]:
        """
        Return the fragments that ``selection`` matches, in any order.

        ``known`` holds fragments of an earlier scan: one whose ``etag`` still stands need not be fetched again.
        """

    @abstractmethod
    async def _headers(self, query: RunQuery) -> Collection[RunSummary]:
        """Return at least the runs that ``query`` wants, in any order; a layout pushes down what filters it can."""

    @abstractmethod
    async def _delete(self, run_id: str) -> None:
        """Delete every fragment of a run; nothing there is no error."""

    # What a layout may override.

    async def _read_whole(self, run_id: str) -> RunLog | None:
        """Return a run in full, ``None`` if its header is not there."""
        return assemble(await self._scan(run_id, WHOLE_RUN), where=self._where(run_id))

    async def _look(self, run_id: str, known: Mapping[FragmentKey, Fragment]) -> Sequence[Fragment]:
        """Scan for a watch: as the run stood at one moment; ``known`` is what the look before this one saw."""
        return await self._scan(run_id, WHOLE_RUN, known)

    def _view(self, run_id: str) -> View:
        """Return what one watch looks at the run with; a layout that can tell what has changed overrides this."""
        return WholeView(partial(self._look, run_id))

    async def _modify(self, run_id: str, key: FragmentKey, change: Callable[[Fragment], Fragment]) -> None:
        """
        Replace one fragment by ``change(fragment)``; ``change`` may be called more than once.

        Changes of one fragment through this store are made one after the other. Layouts that can compare and swap
        override this, so that changes through other stores are not lost either.

        Raises:
            RunLogNotFoundError: the run, or that part of it, is not there.
        """
        lock = self._changing.setdefault((run_id, key), asyncio.Lock())
        async with lock:
            fragment = await self._read(run_id, key)
            if fragment is None:
                raise RunLogNotFoundError(run_id, self.location)
            await self._upsert(run_id, [change(fragment)])

    async def _run_ended(self, run_id: str) -> None:
        """Do what the layout does when a run has reached SUCCESS or FAIL, after that status was stored."""

    # Runs.

    async def create_run_log(
        self,
        run_id: str,
        *,
        dag_hash: str = "",
        use_cached: bool = False,
        tag: str = "",
        original_run_id: str = "",
        status: str = CREATED,
    ) -> RunLog:
        """
        Create a run; of any number of concurrent creators, in any number of processes, exactly one succeeds.

        Raises:
            RunLogExistsError: a run of that id is there already, or another creator was first.
        """
        self._check_writable()
        run_log = RunLog(
            run_id=check_run_id(run_id),
            dag_hash=dag_hash,
            use_cached=use_cached,
            tag=tag,
            original_run_id=original_run_id,
            status=status,
        )
        if await self._insert(run_id, [fragment_of(run_log)]):
            raise RunLogExistsError(run_id, self.location)
        return run_log

    async def get_run_log_by_id(self, run_id: str, full: bool = True) -> RunLog:
        """
        Return a run; ``full=False`` reads the header alone, without steps, branches, parameters and job.

        Raises:
            RunLogNotFoundError: no run of that id.
        """
        self._check_readable()
        check_run_id(run_id)
        if full:
            run_log = await self._read_whole(run_id)
        else:
            run_log = self._model(RunLog, await self._read(run_id, HEADER))
        if run_log is None:
            raise RunLogNotFoundError(run_id, self.location)
        return run_log

    async def put_run_log(self, run_log: RunLog) -> None:
        """
        Write the header, and add the steps, branches, parameters and job that the store lacks.

        It never replaces or erases a part that is stored already, so a copy that has gone stale does no harm; use
        :meth:`add_step_log` and :meth:`set_parameters` to change one.
        """
        self._check_writable()
        run_id = check_run_id(run_log.run_id)
        header, nested = explode(run_log)
        if nested and run_log.status in TERMINAL_STATUSES:
            # Who watches the run stops at its end, so everything else has to be there by then.
            if HEADER in await self._insert(run_id, [*nested, header]):
                await self._upsert(run_id, [header])
        else:
            await self._upsert(run_id, [header])
            await self._insert(run_id, nested)
        await self._note_status(run_id, run_log.status)

    async def update_run_log_status(self, run_id: str, status: str) -> None:
        """
        Set the status of a run.

        Raises:
            RunLogNotFoundError: no run of that id.
        """

        def change(header: Fragment) -> Fragment:
            return _changed(header, {"status": status})

        self._check_writable()
        await self._modify(check_run_id(run_id), HEADER, change)
        await self._note_status(run_id, status)

    async def delete_run_log(self, run_id: str) -> None:
        """Delete a run and everything in it. Deleting what is not there is no error, so it is safe to repeat."""
        self._check_writable()
        await self._delete(check_run_id(run_id))

    async def list_run_logs(
        self,
        *,
        status: str | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[RunSummary]:
        """
        Yield the runs of this store, newest first.

        Args:
            status: only runs of this status.
            tag: only runs with this tag.
            since: only runs created at or after this time; a time without zone is UTC.
            until: only runs created before this time; a time without zone is UTC.
            limit: at most so many runs.
        """
        self._check_readable()
        query = RunQuery(status, tag, _utc(since), _utc(until), limit)
        for summary in query.select(await self._headers(query)):
            yield summary

    # Parameters and configuration.

    async def get_parameters(self, run_id: str, internal_branch_name: str = "") -> dict[str, Any]:
        """
        Return the parameters of the run, or of one branch's own scope.

        Raises:
            RunLogNotFoundError: no run of that id.
        """
        self._check_readable()
        check_run_id(run_id)
        selection = Selection(frozenset({Kind.PARAMETER}), internal_branch_name)
        fragments = [
            fragment for fragment in await self._scan(run_id, selection) if fragment.scope == internal_branch_name
        ]
        if not fragments:
            await self._require_run(run_id)
        return {fragment.name: fragment.value for fragment in in_creation_order(fragments)}

    async def set_parameters(
        self, run_id: str, parameters: Mapping[str, JsonValue], internal_branch_name: str = ""
    ) -> None:
        """
        Set parameters of the run, or of one branch's own scope; keys not named stay as they are.

        Each key is a fragment of its own: concurrent callers that set different keys never disturb each other.
        """
        self._check_writable()
        check_run_id(run_id)
        if internal_branch_name:
            check_name(internal_branch_name, "branch's internal name")
        fragments = [parameter_fragment(key, value, internal_branch_name) for key, value in parameters.items()]
        if fragments:
            await self._upsert(run_id, fragments)

    async def get_run_config(self, run_id: str) -> dict[str, Any]:
        """
        Return the configuration that the run was started with.

        Raises:
            RunLogNotFoundError: no run of that id.
        """
        return dict((await self.get_run_log_by_id(run_id, full=False)).run_config)

    async def set_run_config(self, run_id: str, run_config: Mapping[str, JsonValue]) -> None:
        """
        Add to the run's configuration; keys not named stay as they are.

        Raises:
            RunLogNotFoundError: no run of that id.
        """

        def change(header: Fragment) -> Fragment:
            current = self._model(RunLog, header)
            merged = {**(current.run_config if current else {}), **run_config}
            return _changed(header, {"run_config": merged})

        self._check_writable()
        await self._modify(check_run_id(run_id), HEADER, change)

    # Steps, branches, the job.

    async def get_step_log(self, internal_name: str, run_id: str) -> StepLog:
        """
        Return one step, without its branches.

        Raises:
            RunLogNotFoundError: no run of that id.
            StepLogNotFoundError: the run has no such step.
        """
        self._check_readable()
        key = FragmentKey(Kind.STEP_LOG, check_name(internal_name, "step's internal name"))
        step_log = self._model(StepLog, await self._read(check_run_id(run_id), key))
        if step_log is None:
            await self._require_run(run_id)
            raise StepLogNotFoundError(run_id, internal_name, self.location)
        return step_log

    async def add_step_log(self, step_log: StepLog, run_id: str) -> None:
        """
        Write one step, replacing an earlier version of it.

        Branches inside ``step_log``, and what is in them, are added where the store lacks them and never replaced.
        """
        self._check_writable()
        await self._put(check_run_id(run_id), step_log)

    async def get_branch_log(self, internal_branch_name: str, run_id: str) -> BranchLog | RunLog:
        """
        Return one branch with its steps, nested branches and parameters; ``""`` is the run log, in full.

        Raises:
            RunLogNotFoundError: no run of that id.
            BranchLogNotFoundError: the run has no such branch.
        """
        if not internal_branch_name:
            return await self.get_run_log_by_id(run_id)
        self._check_readable()
        check_name(internal_branch_name, "branch's internal name")
        kinds = frozenset({Kind.BRANCH_LOG, Kind.STEP_LOG, Kind.PARAMETER})
        fragments = await self._scan(check_run_id(run_id), Selection(kinds, internal_branch_name))
        branch_log = assemble_branch(internal_branch_name, fragments)
        if branch_log is None:
            await self._require_run(run_id)
            raise BranchLogNotFoundError(run_id, internal_branch_name, self.location)
        return branch_log

    async def add_branch_log(self, branch_log: BranchLog | RunLog, run_id: str) -> None:
        """
        Write a branch's own fields, replacing an earlier version of them; a run log goes to :meth:`put_run_log`.

        Steps and parameters inside ``branch_log`` are added where the store lacks them and never replaced.
        """
        if isinstance(branch_log, RunLog):
            await self.put_run_log(branch_log)
            return
        self._check_writable()
        await self._put(check_run_id(run_id), branch_log)

    async def get_job_log(self, run_id: str) -> JobLog:
        """
        Return the job of a run.

        Raises:
            RunLogNotFoundError: no run of that id.
            JobLogNotFoundError: the run has no job.
        """
        self._check_readable()
        job_log = self._model(JobLog, await self._read(check_run_id(run_id), JOB))
        if job_log is None:
            await self._require_run(run_id)
            raise JobLogNotFoundError(run_id, self.location)
        return job_log

    async def add_job_log(self, job_log: JobLog, run_id: str) -> None:
        """
        Write the job of a run, replacing an earlier version of it, and give the run the job's status.

        Raises:
            RunLogNotFoundError: no run of that id.
        """
        self._check_writable()
        await self._upsert(check_run_id(run_id), [fragment_of(job_log)])
        await self.update_run_log_status(run_id, job_log.status)

    # Watching.

    async def watch(self, run_id: str, *, cursor: str | None = None) -> AsyncIterator[Fragment]:
        """
        Yield every fragment of a run, and then every change, until the run reaches SUCCESS or FAIL.

        Each fragment yielded carries a ``cursor``: given back, also in another process, the watch goes on after it and
        yields what has changed since. A part that changes several times between two looks is yielded once, as it then
        stands. The store is looked at ten times a second while things change, but for half of the time at most, and
        down to every 5 s while they do not and nothing tells of a change; what a look costs is said by each store.

        Raises:
            RunLogNotFoundError: no run of that id, or it was deleted meanwhile.
            ConfigurationError: ``cursor`` is not one of this run's.
        """
        self._check_readable()
        seen = Cursor.parse(cursor, check_run_id(run_id))
        delay = POLL_FASTEST_S
        ended = False
        with closing(self._view(run_id)) as view:
            while not ended:
                began = time.monotonic()
                found = await self._found_by(view, run_id)
                if self._has_ended(found[HEADER]):
                    # Only a look that begins after the end sees everything that was stored before it.
                    found |= await self._found_by(view, run_id)
                look_s = time.monotonic() - began
                ended = self._has_ended(found[HEADER])
                changed = seen.unseen(in_creation_order(found.values()))
                if ended:
                    # The end of the run is told last: whoever stops there has seen everything before it.
                    changed.sort(key=lambda item: item[0].key == HEADER)
                for fragment, mark in changed:
                    seen.add(mark)
                    yield Fragment(fragment.key, fragment.body, fragment.created_at, fragment.etag, seen.here())
                if not ended:
                    delay = POLL_FASTEST_S if changed else min(delay * 1.5, POLL_SLOWEST_S)
                    await view.wait(max(POLL_FASTEST_S, look_s), max(delay, look_s))

    # Making parts; none of these touches the store.

    @staticmethod
    def create_step_log(name: str, internal_name: str) -> StepLog:
        """Return a new step of status CREATED, not yet stored."""
        return StepLog(name=name, internal_name=internal_name, status=CREATED)

    @staticmethod
    def create_branch_log(internal_branch_name: str) -> BranchLog:
        """Return a new branch of status CREATED, not yet stored."""
        return BranchLog(internal_name=internal_branch_name, status=CREATED)

    @staticmethod
    def create_attempt_log() -> StepAttempt:
        """Return a new attempt; its status is FAIL until somebody says otherwise."""
        return StepAttempt()

    @staticmethod
    def create_code_identity() -> CodeIdentity:
        """Return a new, empty code identity."""
        return CodeIdentity()

    @staticmethod
    def create_data_catalog(name: str) -> DataCatalog:
        """Return a new catalog entry of that name."""
        return DataCatalog(name=name)

    @staticmethod
    def create_job_log() -> JobLog:
        """Return a new job of status CREATED, not yet stored."""
        return JobLog(status=CREATED)

    # Shared pieces.

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.location} {self._state}>"

    def _where(self, run_id: str) -> str:
        return f"run {run_id!r} in {self.location}"

    async def _put(self, run_id: str, model: StepLog | BranchLog) -> None:
        own, nested = explode(model)
        await self._upsert(run_id, [own])
        if nested:
            await self._insert(run_id, nested)

    async def _found_by(self, view: View, run_id: str) -> dict[FragmentKey, Fragment]:
        self._check_open()
        found = {fragment.key: fragment for fragment in await view.look()}
        if HEADER not in found:
            raise RunLogNotFoundError(run_id, self.location)
        return found

    async def _require_run(self, run_id: str) -> None:
        if await self._read(run_id, HEADER) is None:
            raise RunLogNotFoundError(run_id, self.location)

    async def _note_status(self, run_id: str, status: str) -> None:
        if status in TERMINAL_STATUSES:
            await self._run_ended(run_id)

    def _model(self, cls: type[Model], fragment: Fragment | None) -> Model | None:
        model = None if fragment is None else to_model(fragment)
        return model if isinstance(model, cls) else None

    @staticmethod
    def _has_ended(header: Fragment) -> bool:
        with contextlib.suppress(AsyncStoreError):
            return header.value.get("status") in TERMINAL_STATUSES
        return False


def _changed(fragment: Fragment, fields: Mapping[str, Any]) -> Fragment:
    return fragment_of(to_model(fragment).model_copy(update=dict(fields)))


def _utc(time: datetime | None) -> datetime | None:
    if time is None:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
