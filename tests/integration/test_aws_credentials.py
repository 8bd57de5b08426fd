"""Where credentials come from, and how they stay fresh; STS is moto's."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from asyncstore.aws.credentials import CredentialProvider, Credentials
from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import ConfigurationError, CredentialsError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from asyncstore.testing.servers import S3Server

ROLE = "arn:aws:iam::123456789012:role/writer"


async def test_default_chain_reads_the_environment() -> None:
    found = await CredentialProvider(AwsSettings()).get()
    assert (found.access_key_id, found.secret_access_key, found.token) == ("accesskey1", "secretkey1", None)


async def test_named_variables_and_session_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MY_ID", "MY_SECRET", "MY_TOKEN"):
        monkeypatch.setenv(name, name.lower())
    settings = AwsSettings(
        use_credentials=True,
        aws_access_key_name="MY_ID",
        aws_secret_access_key_name="MY_SECRET",
        aws_session_key_name="MY_TOKEN",
    )
    assert await CredentialProvider(settings).get() == Credentials("my_id", "my_secret", "my_token")


async def test_missing_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match=r"lacks AWS_SECRET_ACCESS_KEY$"):
        await CredentialProvider(AwsSettings(use_credentials=True)).get()


async def test_profile_of_the_configured_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SHARED_CREDENTIALS_FILE")
    file = tmp_path / "credentials"
    file.write_text("[team]\naws_access_key_id = team-id\naws_secret_access_key = team-secret\n")
    settings = AwsSettings(aws_profile="team", aws_credentials_file=str(file))
    assert (await CredentialProvider(settings).get()).access_key_id == "team-id"


async def test_unknown_profile_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="aws_profile 'nobody' does not exist"):
        await CredentialProvider(AwsSettings(aws_profile="nobody")).get()


async def test_credentials_file_of_the_environment_counts_unless_another_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("inherited", "given"):
        text = f"[default]\naws_access_key_id = {name}\naws_secret_access_key = secret\n"
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "inherited"))
    assert (await CredentialProvider(AwsSettings()).get()).access_key_id == "inherited"
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = AwsSettings(aws_credentials_file="~/given")
    assert (await CredentialProvider(settings).get()).access_key_id == "given"


async def test_unknown_profile_of_the_environment_harms_only_who_uses_it(
    moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigurationError, match="AWS_PROFILE"):
        await CredentialProvider(AwsSettings()).get()
    settings = AwsSettings(use_credentials=True, endpoint_url=moto.endpoint_url, role_arn=ROLE)
    assert (await CredentialProvider(settings).get()).token


async def test_role_is_assumed_and_kept(moto: S3Server) -> None:
    settings = AwsSettings(endpoint_url=moto.endpoint_url, role_arn=ROLE, session_duration_in_seconds=900)
    provider = CredentialProvider(settings)
    found = await provider.get()
    assert found.token
    assert found.expires_at is not None
    assert found.expires_at - datetime.now(UTC) <= timedelta(seconds=900)
    assert await provider.get() is found
    assert found.secret_access_key not in repr(found)


async def test_waiting_tasks_share_one_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = CredentialProvider(AwsSettings())
    calls: list[int] = []
    real = provider._find

    def find() -> Credentials:
        calls.append(1)
        return real()

    monkeypatch.setattr(provider, "_find", find)
    async with asyncio.TaskGroup() as group:
        for _ in range(200):
            group.create_task(provider.get())
    assert len(calls) == 1


async def test_failed_early_refresh_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = CredentialProvider(AwsSettings())
    valid = Credentials("id", "secret", "token", datetime.now(UTC) + timedelta(minutes=5))
    provider._current, provider._refresh_at = valid, datetime.now(UTC)

    def fail() -> Any:
        raise CredentialsError("STS says no")

    monkeypatch.setattr(provider, "_find", fail)
    assert await provider.get() is valid


async def test_no_metadata_service_is_unavailable_or_no_credentials(moto: S3Server) -> None:
    settings = AwsSettings(endpoint_url="http://127.0.0.1:9", role_arn=ROLE)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await CredentialProvider(settings).get()
