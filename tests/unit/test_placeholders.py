from __future__ import annotations

from urllib.parse import quote

import pytest

from asyncstore._core.placeholders import escape, fill, placeholder_names
from asyncstore.errors import ConfigurationError


class Secrets:
    """Secrets out of a dict."""

    def __init__(self, **values: str) -> None:
        self._values = values
        self.asked: list[str] = []

    async def get(self, name: str) -> str:
        self.asked.append(name)
        if name not in self._values:
            raise ConfigurationError(f"secret {name!r} is missing")
        return self._values[name]


def test_only_the_braced_form_is_a_placeholder() -> None:
    assert placeholder_names("a ${x} $y $$ $${no} $$${y} ${z-1.b} ${x} $ $}") == ["x", "y", "z-1.b"]


@pytest.mark.parametrize("text", ["pg://me:${my secret}@host", "${}", "${1}", "${é}", "${name", "$$${my secret}", "${"])
async def test_a_malformed_placeholder_is_not_sent_as_a_password(text: str) -> None:
    with pytest.raises(ConfigurationError, match="begins no placeholder") as caught:
        await fill(text, Secrets(my="x", name="x"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["$", "$$", "${x}", "a$b$${"])
async def test_what_is_escaped_is_filled_with_nothing(text: str) -> None:
    assert await fill(escape(text), None) == text


async def test_placeholders_are_filled_and_quoted() -> None:
    secrets = Secrets(user="scott", password="p@ss/w:rd#1")
    url = await fill("pg://${user}:${password}@host/$y$$x", secrets, quote=lambda value: quote(value, safe=""))
    assert url == "pg://scott:p%40ss%2Fw%3Ard%231@host/$y$x"
    assert secrets.asked == ["user", "password"]


async def test_a_secret_that_looks_like_a_placeholder_is_left_alone() -> None:
    assert await fill("${a}", Secrets(a="${b}$$")) == "${b}$$"


async def test_text_without_placeholders_needs_no_secrets() -> None:
    assert await fill("plain $ text", None) == "plain $ text"


async def test_a_missing_secret_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'password'"):
        await fill("pg://${password}@host", None)
    with pytest.raises(ConfigurationError, match="'password'"):
        await fill("${user}:${password}", Secrets(user="hidden-user"))
