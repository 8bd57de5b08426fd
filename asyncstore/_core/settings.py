"""Settings: frozen, checked when they are made, and with errors that name the nearest known key."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Settings", "unknown_key"]


class Settings(BaseModel):
    """Base of all settings: a docstring per field with unit and default, unknown keys refused, secrets never shown."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _take_paths(cls, options: Any) -> Any:
        """Take path objects wherever a path is meant."""
        if not isinstance(options, dict):
            return options
        return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in options.items()}

    @classmethod
    def parse(cls, options: Mapping[str, Any], where: str) -> Self:
        """
        Check ``options`` and return them as settings; ``where`` says in errors whose options they are.

        Raises:
            ConfigurationError: every unknown, missing or wrong key at once, none of their values.
        """
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            problems = [_problem(cls, item["type"], item["loc"], item["msg"]) for item in error.errors()]
        raise ConfigurationError(f"{where}: {'; '.join(problems)}")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that ``key`` is not known, and which known one was probably meant."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {key!r}, {advice}"


def _problem(cls: type[BaseModel], kind: str, location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(map(str, location)) or "(all)"
    if kind == "extra_forbidden":
        return unknown_key(key, cls.model_fields)
    if kind == "missing":
        return f"{key!r} is required"
    return f"{key!r}: {message}"
