"""Which server the settings and the environment name together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncstore.aws.settings import AwsSettings
from asyncstore.errors import ConfigurationError

AWS = "https://s3.eu-west-1.amazonaws.com"
BAD_URLS = [
    "not a url",
    "http://not a url",
    "ftp://h",
    "http://",
    "http://h:port",
    "http://[",
    "http://h/a b",
    "http://h?q",
]


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize("url", BAD_URLS)
def test_a_wrong_endpoint_is_told_wherever_it_stands(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"'endpoint_url'.*must be an http"):
        AwsSettings.parse({"endpoint_url": url}, "test")
    monkeypatch.setenv(name, url)
    with pytest.raises(ConfigurationError, match=f"{name} must be an http"):
        _ = AwsSettings().endpoint


@pytest.mark.parametrize("url", ["http://user:hunter2@h", "http://user:hunter2@h:port", "http://user:hunter2@h x"])
def test_a_password_in_an_endpoint_is_refused_and_not_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as configured:
        AwsSettings.parse({"endpoint_url": url}, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(ConfigurationError) as inherited:
        _ = AwsSettings().endpoint
    assert "hunter2" not in f"{configured.value}{inherited.value}"


def test_an_empty_endpoint_means_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    settings = AwsSettings(endpoint_url="")
    assert (settings.endpoint, settings.service_url, settings.sts_endpoint) == (None, AWS, None)
    assert AwsSettings(region="cn-north-1").service_url == "https://s3.cn-north-1.amazonaws.com.cn"


def test_a_configured_endpoint_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general/")
    assert AwsSettings().endpoint == "http://general"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://for-s3")
    assert AwsSettings().endpoint == "http://for-s3"
    assert AwsSettings(endpoint_url="http://[::1]:9000/").endpoint == "http://[::1]:9000"


@pytest.mark.parametrize(
    ("endpoint", "bucket", "expected"),
    [
        (None, "bucket", False),
        (None, "with.dots", True),
        (AWS, "bucket", False),
        ("https://s3.cn-north-1.amazonaws.com.cn", "bucket", False),
        ("https://fake-amazonaws.com", "bucket", True),
        ("http://127.0.0.1:9000", "bucket", True),
    ],
)
def test_automatic_addressing(endpoint: str | None, bucket: str, expected: bool) -> None:
    assert AwsSettings(endpoint_url=endpoint).path_style(bucket) is expected
    assert not AwsSettings(endpoint_url=endpoint, addressing_style="virtual").path_style(bucket)


def test_roles_are_not_assumed_at_an_s3_server_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://only-s3")
    assert AwsSettings().sts_endpoint is None
    assert AwsSettings(endpoint_url="https://s3.cn-north-1.amazonaws.com.cn").sts_endpoint is None
    assert AwsSettings(endpoint_url="http://own").sts_endpoint == "http://own"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general")
    assert AwsSettings().sts_endpoint == "http://general"
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://for-sts")
    assert AwsSettings(endpoint_url="http://own").sts_endpoint == "http://for-sts"


def test_the_home_folder_is_expanded() -> None:
    expected = str(Path("~/keys").expanduser())
    assert AwsSettings(aws_credentials_file="~/keys").aws_credentials_file == expected
    assert os.path.isabs(expected)
