"""``${name}`` placeholders in settings, filled from secrets when the service that needs them opens."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Protocol

from asyncstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SecretSource", "escape", "fill", "placeholder_names"]


class SecretSource(Protocol):
    """Where the values of placeholders come from; every secrets provider is one."""

    async def get(self, name: str) -> str:
        """
        Return the secret of that name.

        Raises:
            ConfigurationError: there is none; the message names it and nothing else.
        """
        ...


class _Template(string.Template):
    # Only the braced form is a placeholder, so that a password may hold a bare dollar sign.
    flags = 0  # type: ignore[assignment]
    idpattern = r"(?!)"
    braceidpattern = r"[A-Za-z_][A-Za-z0-9_.-]*"


def placeholder_names(text: str) -> list[str]:
    """
    Return the names of the placeholders in ``text``, each once, in order.

    Raises:
        ConfigurationError: a ``${`` begins no placeholder; it is not shown, as it may be part of a password.
    """
    for found in _Template.pattern.finditer(text):
        if found["invalid"] is not None and text.startswith("{", found.end()):
            raise ConfigurationError(
                "a '${' begins no placeholder: write ${name}, of letters, digits, '_', '-' and '.' and not beginning "
                "with a digit; or $${ for the two characters themselves"
            )
    return _Template(text).get_identifiers()


def escape(text: str) -> str:
    """Return what :func:`fill` turns into ``text``."""
    return text.replace("$", "$$")


async def fill(text: str, secrets: SecretSource | None, *, quote: Callable[[str], str] = str) -> str:
    """
    Return ``text`` with each ``${name}`` replaced by the quoted secret; ``$$`` stands for a dollar sign.

    A dollar sign that begins no placeholder stays as it is, as with :meth:`string.Template.safe_substitute`.

    Raises:
        ConfigurationError: there is a placeholder but no secrets provider, or no such secret; or one is malformed.
    """
    names = placeholder_names(text)
    if names and secrets is None:
        raise ConfigurationError(f"secret {names[0]!r} is needed, but no secrets provider is configured")
    values = {name: quote(await secrets.get(name)) for name in names} if secrets is not None else {}
    return _Template(text).safe_substitute(values)
