"""Models as fragments, and back. Pure functions."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json

from asyncstore.errors import IntegrityError, InvalidValueError
from asyncstore.models import BranchLog, JobLog, RunLog, StampedModel, StepLog
from asyncstore.names import check_name
from asyncstore.runlog._json import checked, parse_json, reason
from asyncstore.runlog.fragments import HEADER, JOB, Fragment, FragmentKey, Kind

__all__ = ["NESTED", "explode", "fragment_of", "parameter_fragment", "to_model", "validate_json"]

Model = TypeVar("Model", bound=StampedModel)
NESTED: dict[type[StampedModel], set[str]] = {
    RunLog: {"steps", "parameters", "job"},
    BranchLog: {"steps", "parameters"},
    StepLog: {"branches"},
    JobLog: set(),
}
_MODELS: dict[Kind, type[StampedModel]] = {
    Kind.RUN_LOG: RunLog,
    Kind.STEP_LOG: StepLog,
    Kind.BRANCH_LOG: BranchLog,
    Kind.JOB_LOG: JobLog,
}
_NAMED: dict[type[StampedModel], tuple[Kind, str]] = {
    StepLog: (Kind.STEP_LOG, "step's internal name"),
    BranchLog: (Kind.BRANCH_LOG, "branch's internal name"),
}
"""By exact class: ``isinstance`` takes as long for a model of pydantic as all the rest."""


def fragment_of(model: StampedModel) -> Fragment:
    """
    Return the fragment that holds a model's own fields.

    Raises:
        InvalidValueError: a value has no JSON form that every backend can hold, or is too large or too deep.
    """
    key = _key_of(model)
    try:
        # What model_dump_json calls, without a string in between.
        body = model.__pydantic_serializer__.to_json(model, exclude=NESTED[type(model)], warnings=False)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise InvalidValueError(f"{key.kind} {key.name!r} cannot be written as JSON: {reason(error)}") from error
    return Fragment(key, checked(body, key.kind, key.name))


def parameter_fragment(key: str, value: object, scope: str = "") -> Fragment:
    """Return the fragment of one parameter; raises like :func:`fragment_of`."""
    what = f"parameter {key!r}"
    check_name(key, "parameter key")
    try:
        body = to_json(value, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise InvalidValueError(f"{what} cannot be written as JSON: {reason(error)}") from error
    return Fragment(FragmentKey(Kind.PARAMETER, key, scope), checked(body, "parameter", key))


def to_model(fragment: Fragment) -> StampedModel:
    """
    Return the model of any fragment but a parameter.

    Raises:
        IntegrityError: the stored text is not such a model.
    """
    model = validate_json(_MODELS[fragment.kind], fragment.body, f"{fragment.kind} {fragment.name!r}")
    model.stamp_ = fragment.created_at
    return model


def explode(model: RunLog | BranchLog | StepLog) -> tuple[Fragment, list[Fragment]]:
    """Return the fragment of the model's own fields, and those of everything nested in it, outermost first."""
    own = fragment_of(model)
    nested: list[Fragment] = []
    if type(model) is StepLog and not model.branches:
        return own, nested
    stack: list[RunLog | BranchLog | StepLog] = [model]
    while stack:
        current = stack.pop()
        if isinstance(current, StepLog):
            children: list[StampedModel] = list(current.branches.values())
        else:
            scope = current.internal_name if isinstance(current, BranchLog) else ""
            nested += [parameter_fragment(key, value, scope) for key, value in current.parameters.items()]
            children = list(current.steps.values())
            if isinstance(current, RunLog) and current.job is not None:
                nested.append(fragment_of(current.job))
        nested += [fragment_of(child) for child in children]
        stack += [child for child in reversed(children) if isinstance(child, StepLog | BranchLog)]
    return own, nested


def _key_of(model: StampedModel) -> FragmentKey:
    kind, what = _NAMED.get(type(model), (None, ""))
    if kind is None:
        return HEADER if isinstance(model, RunLog) else JOB
    return FragmentKey(kind, check_name(model.internal_name, what))  # type: ignore[attr-defined]


def validate_json(cls: type[Model], text: bytes, what: str) -> Model:
    """Return the model that JSON text holds; see :func:`validate`."""
    try:
        return cls.model_validate_json(text)
    except ValidationError:
        # Its parser gives up earlier than Python's, and does not say which part it could not read.
        return validate(cls, parse_json(text, what), what)


def validate(cls: type[Model], value: object, what: str) -> Model:
    """Return ``value`` as that model; raises IntegrityError saying what is wrong where, never the value."""
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise IntegrityError(f"{what} is not a {cls.__name__}: {where}: {first['msg']}") from error
