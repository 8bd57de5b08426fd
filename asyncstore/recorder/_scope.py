"""Runs and branches: what steps, further branches and parameters are recorded in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncstore._core.concurrency import map_bounded
from asyncstore._core.readable import readable_id
from asyncstore.errors import ClosedError
from asyncstore.models import FAIL, PROCESSING, BranchLog, RunLog
from asyncstore.names import check_name
from asyncstore.recorder._owner import Owner
from asyncstore.recorder._recording import Block, Recording, outcome_of, to_the_end
from asyncstore.recorder._step import StepRecorder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

    from asyncstore.catalog import Catalog
    from asyncstore.runlog.base import RunLogStore

__all__ = ["BranchRecorder", "RunRecorder", "Scope"]

PARAMETER_READS = 8
"""Most scopes whose parameters are read at once."""


class Scope(Block):
    """What a run and a branch have in common: steps, branches and parameters below them."""

    def __init__(self, recording: Recording, internal_name: str, scopes: Sequence[str]) -> None:
        super().__init__(recording, internal_name)
        self._scopes = scopes

    @property
    def run_id(self) -> str:
        """The run that is recorded."""
        return self._recording.run_id

    def step(self, name: str, *, step_type: str = "task") -> StepRecorder:
        """
        Return a recorder of a step; ``async with`` records that it runs and how it ended.

        A name that ran before in this run gets a further attempt. Steps that run at the same time need different names.

        Args:
            name: the step's name within this run or branch.
            step_type: ``task``; for a step whose branches are recorded too, ``parallel`` or ``map``.
        """
        self._check_open()
        return StepRecorder(self, check_name(name, "step name"), step_type)

    def branch(self, step: str, branch: str, *, step_type: str = "parallel") -> BranchRecorder:
        """
        Return a recorder of a branch, whose internal name ends in ``<step>.<branch>``.

        Branches of one step may run at the same time. The step itself is recorded along with them, from the first one's
        start to the last one's end, and fails if one of them did; unless it is open as a step of its own already.

        Args:
            step: the composite step's name within this run or branch.
            branch: the branch's name.
            step_type: what kind of composite step it is: ``parallel``, ``map`` or ``conditional``.
        """
        self._check_open()
        return BranchRecorder(self, check_name(step, "step name"), check_name(branch, "branch name"), step_type)

    async def set_parameters(self, parameters: Mapping[str, JsonValue]) -> None:
        """Set parameters of this run or branch; keys not named stay as they are."""
        self._check_open()
        await self._recording.store.set_parameters(self.run_id, parameters, self._internal_name)

    async def get_parameters(self) -> dict[str, Any]:
        """Return the parameters seen from here: the run's, overlaid with those of each branch on the way in."""
        self._check_open()

        async def read(scope: str) -> dict[str, Any]:
            return await self._recording.store.get_parameters(self.run_id, scope)

        found = await map_bounded(read, self._scopes, limit=PARAMETER_READS)
        return {key: value for parameters in found for key, value in parameters.items()}

    def _below(self, name: str) -> str:
        return f"{self._internal_name}.{name}" if self._internal_name else name


class RunRecorder(Scope):
    """
    A run being recorded; :meth:`Services.run` makes it.

    Steps and branches may be recorded from as many tasks as you like.
    """

    kind = "run"

    def __init__(
        self,
        store: RunLogStore,
        catalog: Catalog,
        run_id: str | None = None,
        *,
        parameters: Mapping[str, JsonValue] | None = None,
        run_config: Mapping[str, JsonValue] | None = None,
        **header: Any,
    ) -> None:
        super().__init__(Recording(store, catalog, readable_id() if run_id is None else run_id), "", ("",))
        self._header = header
        self._parameters = dict(parameters or {})
        self._run_config = dict(run_config or {})
        self._run_log: RunLog | None = None

    @property
    def run_log(self) -> RunLog:
        """The run's header, as written last from here; :meth:`read` has the steps as well."""
        if self._run_log is None:
            raise ClosedError(f"{self!r} is not open: use it inside its 'async with' block")
        return self._run_log

    async def read(self) -> RunLog:
        """Return the whole run log as it stands in the store; also after the block has ended."""
        return await self._recording.store.get_run_log_by_id(self.run_id)

    async def _start(self) -> None:
        store = self._recording.store
        # Cancelled meanwhile, it must know whether the run is there and its own: if so, it has failed.
        await to_the_end(self._create())
        try:
            if self._run_config:
                await store.set_run_config(self.run_id, self._run_config)
            if self._parameters:
                await store.set_parameters(self.run_id, self._parameters)
        except Exception as error:
            await self._finish(error)
            raise

    async def _create(self) -> None:
        create = self._recording.store.create_run_log
        self._run_log = await create(self.run_id, status=PROCESSING, **self._header)

    async def _end(self, error: BaseException | None) -> None:
        if self._run_log is not None:
            self._run_log.status = outcome_of(error)
            await self._recording.store.update_run_log_status(self.run_id, self._run_log.status)


class BranchRecorder(Scope):
    """A branch being recorded; :meth:`RunRecorder.branch` makes it, and branches have branches too."""

    kind = "branch"

    def __init__(self, parent: Scope, step: str, branch: str, step_type: str) -> None:
        internal_name = f"{parent._below(step)}.{branch}"
        super().__init__(parent._recording, internal_name, (*parent._scopes, internal_name))
        self._step = (step, parent._below(step), step_type)
        self._owner: Owner | None = None
        self._log = BranchLog(internal_name=internal_name)

    @property
    def internal_name(self) -> str:
        """Its dot path within the run."""
        return self._internal_name

    @property
    def branch_log(self) -> BranchLog:
        """The branch's own fields, as written last from here."""
        return self._log

    async def _start(self) -> None:
        self._owner = Owner.of(self._recording, *self._step)
        self._log.status = PROCESSING
        try:
            if self._owner is not None:
                await self._owner.started()
            await self._write()
        except Exception:
            await to_the_end(self._leave_owner(FAIL))
            raise

    async def _end(self, error: BaseException | None) -> None:
        self._log.status = outcome_of(error)
        try:
            await self._write()
        finally:
            await self._leave_owner(self._log.status)

    async def _write(self) -> None:
        await self._recording.store.add_branch_log(self._log, self.run_id)

    async def _leave_owner(self, status: str) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            await owner.left(self._internal_name, status)
