"""Steps: status, attempts, catalog entries, parameters and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncstore._core.readable import describe_error
from asyncstore.models import StepAttempt, StepLog
from asyncstore.recorder._recording import Block, close_attempt, outcome_of
from asyncstore.runlog.encoding import fragment_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

    from asyncstore.catalog import ProgressHook
    from asyncstore.models import DataCatalog
    from asyncstore.recorder._scope import Scope

__all__ = ["StepRecorder"]


class StepRecorder(Block):
    """A step being recorded; :meth:`RunRecorder.step` and :meth:`BranchRecorder.step` make it."""

    kind = "step"

    def __init__(self, scope: Scope, name: str, step_type: str) -> None:
        super().__init__(scope._recording, scope._below(name))
        self._scope = scope
        self._name = name
        self._step_type = step_type
        self._log = StepLog(name=name, internal_name=self._internal_name, step_type=step_type)
        self._attempt = StepAttempt()

    @property
    def internal_name(self) -> str:
        """Its dot path within the run."""
        return self._internal_name

    @property
    def step_log(self) -> StepLog:
        """The step's log as it will be written next."""
        return self._log

    async def get(
        self,
        name: str | Sequence[str],
        *,
        compute_data_folder: str | None = None,
        local_folder: str | os.PathLike[str] | None = None,
        exclude: str | Sequence[str] = (),
        allow_no_match: bool = False,
        on_progress: ProgressHook | None = None,
    ) -> list[DataCatalog]:
        """Bring the run's files that match the pattern(s) into the compute data folder; see :meth:`Catalog.get`."""
        self._check_open()
        recording = self._recording
        entries = await recording.catalog.get(
            name,
            recording.run_id,
            compute_data_folder,
            local_folder=local_folder,
            exclude=exclude,
            allow_no_match=allow_no_match,
            on_progress=on_progress,
        )
        return await self._noted(entries, "get")

    async def put(
        self,
        name: str | Sequence[str],
        *,
        compute_data_folder: str | None = None,
        local_folder: str | os.PathLike[str] | None = None,
        exclude: str | Sequence[str] = (),
        allow_no_match: bool = False,
        on_progress: ProgressHook | None = None,
    ) -> list[DataCatalog]:
        """
        Put the compute data folder's files that match the pattern(s) into the catalog; see :meth:`Catalog.put`.

        Files that an earlier step of this run got or put, and that are as they were then, are not put again.
        """
        self._check_open()
        recording = self._recording
        entries = await recording.catalog.put(
            name,
            recording.run_id,
            compute_data_folder,
            list(recording.synced.values()),
            local_folder=local_folder,
            exclude=exclude,
            allow_no_match=allow_no_match,
            on_progress=on_progress,
        )
        return await self._noted(entries, "put")

    async def set_parameters(self, parameters: Mapping[str, JsonValue]) -> None:
        """Set parameters of the run or branch that the step is in, and note them as what the step gave out."""
        self._check_open()
        await self._scope.set_parameters(parameters)
        self._attempt.output_parameters |= _as_json(self._internal_name, parameters)

    async def get_parameters(self) -> dict[str, Any]:
        """Return the parameters seen from the run or branch that the step is in, and note them as what it took in."""
        self._check_open()
        parameters = await self._scope.get_parameters()
        self._attempt.input_parameters |= parameters
        return parameters

    async def log_metrics(self, metrics: Mapping[str, JsonValue]) -> None:
        """
        Add metrics to the step; they are durable when this returns.

        Raises:
            InvalidValueError: a value has no JSON form that every backend can hold.
        """
        self._check_open()
        checked = _as_json(self._internal_name, metrics)
        self._log.user_defined_metrics |= checked
        self._attempt.user_defined_metrics |= checked
        await self._recording.write_step(self._log)

    async def _start(self) -> None:
        self._log, self._attempt = self._recording.begin_attempt(self._name, self._internal_name, self._step_type)
        try:
            await self._recording.write_step(self._log)
        except Exception as error:
            self._close(error)
            raise

    async def _end(self, error: BaseException | None) -> None:
        self._close(error)
        await self._recording.write_step(self._log)

    def _close(self, error: BaseException | None) -> None:
        message = "" if error is None else describe_error(error)
        close_attempt(self._log, self._attempt, outcome_of(error), message)

    async def _noted(self, entries: list[DataCatalog], stage: str) -> list[DataCatalog]:
        entries = [entry.model_copy(update={"stage": stage}) for entry in entries]
        self._recording.synced |= {entry.name: entry for entry in entries}
        # Of an earlier attempt, or a pattern that overlaps: each file once for each way that it went.
        kept = {(entry.stage, entry.name): entry for entry in [*self._log.data_catalog, *entries]}
        self._log.data_catalog = list(kept.values())
        await self._recording.write_step(self._log)
        return entries


def _as_json(step: str, values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return ``values`` as they will be read back, or raise what storing them would raise, before it is too late."""
    probe = StepLog.model_construct(name=step, internal_name=step, user_defined_metrics=dict(values))
    checked: dict[str, JsonValue] = fragment_of(probe).value["user_defined_metrics"]
    return checked
