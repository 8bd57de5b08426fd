"""
The run log's models: magnus' and runnable's, field for field.

Fields that a tool writes and these models do not know are kept as they are, so a log written by magnus 0.4 or runnable
0.50 goes through ``model_validate_json`` and ``model_dump_json`` without loss. Parameters and metrics are any JSON
value: magnus stores them bare, runnable wrapped in ``{"kind": …, "value": …}``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = [
    "CREATED",
    "FAIL",
    "PROCESSING",
    "STAMP",
    "STAMP_FIELD",
    "SUCCESS",
    "TERMINAL_STATUSES",
    "BranchLog",
    "CodeIdentity",
    "DataCatalog",
    "JobLog",
    "LogModel",
    "RunLog",
    "RunSummary",
    "StepAttempt",
    "StepLog",
    "parse_stamp",
    "stamp_text",
]

CREATED = "CREATED"
PROCESSING = "PROCESSING"
SUCCESS = "SUCCESS"
FAIL = "FAIL"
TERMINAL_STATUSES = frozenset({SUCCESS, FAIL})
"""A run in one of these has ended, though a retry may write on."""


STAMP = "_created_at"
"""JSON key under which a stored part of a run log keeps its creation time."""


STAMP_FIELD = "stamp_"
"""The field of models that holds it."""


def stamp_text(stamp: datetime) -> str:
    """Write a creation time as JSON holds it, always of the same length."""
    return stamp.astimezone(UTC).isoformat(timespec="microseconds")


def parse_stamp(text: object) -> datetime | None:
    """Read what :func:`stamp_text` wrote; anything else is no time."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if isinstance(text, str) else None
    except (OverflowError, ValueError):
        return None


class LogModel(BaseModel):
    """What all models of a run log share: unknown fields are kept, and NaN is never turned into null silently."""

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="constants", protected_namespaces=())


class StampedModel(LogModel):
    """
    A part of the run log that is stored on its own and keeps the time it was first stored.

    ``created_at`` belongs to the store: it travels with a model that was read, and takes no part in comparison,
    iteration or JSON.
    """

    # A field that nothing shows, and not a private attribute: that would call into Python for each model that is read.
    stamp_: SkipJsonSchema[Any] = Field(default=None, alias="_created_at", exclude=True, repr=False)
    """The creation time, or its text, for stores to set. Of any type: a time that is none is no error."""

    @property
    def created_at(self) -> datetime | None:
        """When the store first saw it (UTC); ``None`` before it was stored."""
        stamp = self.stamp_
        return stamp if isinstance(stamp, datetime) else parse_stamp(stamp)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._shown() == other._shown() and self.__pydantic_extra__ == other.__pydantic_extra__

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Generator[tuple[str, Any], None, None]:
        return (item for item in super().__iter__() if item[0] != STAMP_FIELD)

    def _shown(self) -> dict[str, Any]:
        return {**self.__dict__, STAMP_FIELD: None}


class DataCatalog(LogModel):
    """One file of a run's catalog, as a step got or put it."""

    name: str
    """``<compute data folder>/<relative path>``."""
    data_hash: str = ""
    """SHA-256 of the contents, in hex."""
    catalog_relative_path: str = ""
    """``<run_id>/<name>``."""
    catalog_handler_location: str = ""
    """Where the catalog keeps its files: ``s3://<bucket>/<prefix>`` or a folder."""
    stage: str = ""
    """``get`` or ``put``."""


class CodeIdentity(LogModel):
    """What identifies the code that ran: a git commit, a container image."""

    code_identifier: str | None = ""
    code_identifier_type: str | None = ""
    code_identifier_dependable: bool | None = False
    code_identifier_url: str | None = ""
    code_identifier_message: str | None = ""


class StepAttempt(LogModel):
    """One attempt to run a step; times are ISO 8601 text."""

    attempt_number: int = 1
    start_time: str = ""
    end_time: str = ""
    status: str = FAIL
    message: str = ""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    input_parameters: dict[str, JsonValue] = Field(default_factory=dict)
    output_parameters: dict[str, JsonValue] = Field(default_factory=dict)
    user_defined_metrics: dict[str, JsonValue] = Field(default_factory=dict)
    retry_indicator: str = ""
    code_identities: list[CodeIdentity] = Field(default_factory=list)

    @property
    def duration_s(self) -> float | None:
        """Seconds from start to end, ``None`` while either is missing or is not a time."""
        try:
            return (datetime.fromisoformat(self.end_time) - datetime.fromisoformat(self.start_time)).total_seconds()
        except (TypeError, ValueError):
            return None


class StepLog(StampedModel):
    """One step with its attempts; ``branches`` is filled when a run is read in full."""

    name: str
    internal_name: str
    status: str = FAIL
    step_type: str = "task"
    message: str = ""
    mock: bool = False
    attempts: list[StepAttempt] = Field(default_factory=list)
    code_identities: list[CodeIdentity] = Field(default_factory=list)
    user_defined_metrics: dict[str, JsonValue] = Field(default_factory=dict)
    branches: dict[str, BranchLog] = Field(default_factory=dict)
    data_catalog: list[DataCatalog] = Field(default_factory=list)

    def add_data_catalogs(self, data_catalogs: list[DataCatalog]) -> None:
        """Append what a step got from or put into the catalog."""
        self.data_catalog.extend(data_catalogs)

    def get_data_catalogs_by_stage(self, stage: str = "put") -> list[DataCatalog]:
        """Return the catalog entries of this step and everything below it, of one stage (``get`` or ``put``)."""
        return [
            entry for step in _walk({self.internal_name: self}) for entry in step.data_catalog if entry.stage == stage
        ]


class BranchLog(StampedModel):
    """One branch of a composite step; ``steps`` and ``parameters`` are filled when it is read in full."""

    internal_name: str
    status: str = FAIL
    steps: dict[str, StepLog] = Field(default_factory=dict)
    parameters: dict[str, JsonValue] = Field(default_factory=dict)

    def get_data_catalogs_by_stage(self, stage: str = "put") -> list[DataCatalog]:
        """Return the catalog entries of every step below this branch, of one stage (``get`` or ``put``)."""
        return [entry for step in _walk(self.steps) for entry in step.data_catalog if entry.stage == stage]


class JobLog(StampedModel):
    """The log of a run that is a single job."""

    status: str = FAIL
    message: str = ""
    mock: bool = False
    code_identities: list[CodeIdentity] = Field(default_factory=list)
    attempts: list[StepAttempt] = Field(default_factory=list)
    data_catalog: list[DataCatalog] = Field(default_factory=list)

    def add_data_catalogs(self, data_catalogs: list[DataCatalog]) -> None:
        """Append what the job got from or put into the catalog."""
        self.data_catalog.extend(data_catalogs)


class RunLog(StampedModel):
    """One run: its header, and when read in full also steps, branches, parameters and job."""

    run_id: str
    dag_hash: str | None = None
    use_cached: bool = False
    tag: str | None = ""
    original_run_id: str | None = ""
    status: str = FAIL
    steps: dict[str, StepLog] = Field(default_factory=dict)
    job: JobLog | None = None
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    run_config: dict[str, JsonValue] = Field(default_factory=dict)

    def walk_steps(self) -> Iterator[StepLog]:
        """Yield every step, each composite step before the steps of its branches."""
        return _walk(self.steps)

    def walk_branches(self) -> Iterator[BranchLog]:
        """Yield every branch, each before the branches nested in it."""
        return (branch for step in self.walk_steps() for branch in step.branches.values())

    def get_data_catalogs_by_stage(self, stage: str = "put") -> list[DataCatalog]:
        """Return the run's catalog entries of one stage (``get`` or ``put``), each name once, the last one standing."""
        entries = {
            entry.name: entry for step in self.walk_steps() for entry in step.data_catalog if entry.stage == stage
        }
        return list(entries.values())


class RunSummary(LogModel):
    """The header of a run as listings give it."""

    run_id: str
    status: str
    tag: str = ""
    created_at: datetime
    """When the run was created, UTC; where the log does not say, when its document was last written."""
    dag_hash: str = ""
    original_run_id: str = ""


StepLog.model_rebuild()


def _walk(steps: dict[str, StepLog]) -> Iterator[StepLog]:
    # A stack instead of recursion: nesting is data from outside.
    stack: list[Any] = [iter(steps.values())]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
            continue
        yield step
        nested = [inner for branch in step.branches.values() for inner in branch.steps.values()]
        if nested:
            stack.append(iter(nested))
