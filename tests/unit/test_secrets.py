"""Secret providers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from asyncstore._core.placeholders import fill
from asyncstore.errors import ClosedError, ConfigurationError
from asyncstore.secrets import DoNothingSecrets, DotenvSecrets, EnvSecrets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / ".env"
    path.write_text("# comment\nexport TOKEN='t0p$ecret'\nEMPTY=\nBARE\nHOST=db\nURL=http://${HOST}/\n")
    return path


async def test_env_secrets_are_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EnvSecrets() as secrets:
        monkeypatch.setenv("TOKEN", "one")
        assert await secrets.get("TOKEN") == "one"
        monkeypatch.setenv("TOKEN", "two")
        assert await secrets.get("TOKEN") == "two"


async def test_env_prefix_and_suffix_frame_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_TOKEN_DEV", "framed")
    async with EnvSecrets(prefix="APP_", suffix="_DEV") as secrets:
        assert await secrets.get("TOKEN") == "framed"
        with pytest.raises(ConfigurationError, match=r"'OTHER' not found .*APP_<name>_DEV"):
            await secrets.get("OTHER")


async def test_an_empty_variable_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "")
    async with EnvSecrets() as secrets:
        assert await secrets.get("TOKEN") == ""


async def test_dotenv_reads_what_python_dotenv_reads(env_file: Path) -> None:
    async with DotenvSecrets(location=str(env_file)) as secrets:
        assert await secrets.get("TOKEN") == "t0p$ecret"
        assert await secrets.get("EMPTY") == ""
        assert await secrets.get("URL") == "http://db/"


@pytest.mark.parametrize("name", ["BARE", "NOT_THERE"])
async def test_dotenv_names_what_is_missing_and_nothing_else(env_file: Path, name: str) -> None:
    async with DotenvSecrets(location=env_file) as secrets:
        with pytest.raises(ConfigurationError) as caught:
            await secrets.get(name)
    assert str(caught.value) == f"secret {name!r} not found in {env_file}"


async def test_dotenv_without_its_file_fails_when_it_opens(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no file .*nowhere\.env"):
        await DotenvSecrets(location=tmp_path / "nowhere.env").open()


async def test_dotenv_that_is_not_text_says_so_without_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"TOKEN=hush\xff\xfe\n")
    with pytest.raises(ConfigurationError, match="not UTF-8") as caught:
        await DotenvSecrets(location=path).open()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_a_provider_opens_itself_and_stays_closed_once_closed(env_file: Path) -> None:
    secrets = DotenvSecrets(location=env_file)
    assert await secrets.get("HOST") == "db"
    await secrets.aclose()
    with pytest.raises(ClosedError):
        await secrets.get("HOST")


async def test_no_value_shows_in_a_repr(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "t0p$ecret")
    for secrets in (DotenvSecrets(location=env_file), EnvSecrets(prefix="T")):
        async with secrets:
            assert "t0p$ecret" not in repr(secrets) + repr(vars(type(secrets)))


async def test_nothing_is_in_do_nothing() -> None:
    async with DoNothingSecrets() as secrets:
        with pytest.raises(ConfigurationError, match="'TOKEN' not found because no secrets are configured"):
            await secrets.get("TOKEN")


@pytest.mark.parametrize("provider", [DoNothingSecrets, DotenvSecrets, EnvSecrets])
def test_unknown_keys_are_refused(provider: Callable[..., object]) -> None:
    with pytest.raises(ConfigurationError, match="unknown key 'locaton'"):
        provider(locaton="x")


async def test_providers_fill_placeholders(env_file: Path) -> None:
    async with DotenvSecrets(location=env_file) as secrets:
        assert await fill("key=${TOKEN} cost=$5", secrets) == "key=t0p$ecret cost=$5"
