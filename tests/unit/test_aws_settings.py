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
    "http://localhost?",
    "http://localhost#",
    "http://localhost/?",
    "https://h/#",
    "https://h\nost",
    "https://h\t",
    "file:///etc/passwd",
    "//h",
]
LINK_LOCAL = [
    "169.254.169.254",
    "169.254.170.2:80",
    "169.254.0.0",
    "169.254.255.255",
    "169.254.169.254.",
    "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "2852039166",
    "0251.0376.0251.0376",
    "169.254.43518",
    "[fe80::1]",
    "[FEBF::1]:9000",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]",
    "[64:ff9b::169.254.169.254]",
    "[fd00:ec2::254]",
    "instance-data",
    "instance-data.ec2.internal.",
    "metadata.google.internal",
]
ELSEWHERE = ["minio", "10.0.0.1", "168.254.169.254", "0.0.0.0:9000", "[2001:db8::1]", "localhost.example.com", "128.1"]
HERE = [
    "127.0.0.1",
    "127.255.255.254:9000",
    "127.1",
    "0x7f.1",
    "[::1]:9",
    "[::ffff:127.0.0.1]",
    "localhost",
    "LOCALHOST:1",
]


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize("url", BAD_URLS)
def test_a_wrong_endpoint_is_told_wherever_it_stands(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"'endpoint_url'.*must be an http"):
        AwsSettings.parse({"endpoint_url": url}, "test")
    monkeypatch.setenv(name, url)
    with pytest.raises(ConfigurationError, match=f"{name} must be an http"):
        _ = AwsSettings().endpoint


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", LINK_LOCAL)
def test_link_local_addresses_are_refused_however_they_are_spelled(
    scheme: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{scheme}://{host}/latest"
    for more in ({}, {"insecure": True}):
        with pytest.raises(ConfigurationError, match=r"'endpoint_url'.* link-local .*allow_link_local: true"):
            AwsSettings.parse({"endpoint_url": url, **more}, "test")
    settings = AwsSettings.parse({"endpoint_url": url, "allow_link_local": True, "insecure": True}, "test")
    assert settings.endpoint == url
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
    with pytest.raises(ConfigurationError, match="AWS_ENDPOINT_URL_S3 is a link-local"):
        _ = AwsSettings(insecure=True).endpoint
    with pytest.raises(ConfigurationError, match="AWS_ENDPOINT_URL_STS is a link-local"):
        _ = AwsSettings(insecure=True).sts_endpoint
    assert settings.sts_endpoint == url


@pytest.mark.parametrize("host", ELSEWHERE)
def test_plain_http_to_another_host_has_to_be_said(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://{host}"
    with pytest.raises(ConfigurationError, match=r"'endpoint_url'.* insecure: true"):
        AwsSettings.parse({"endpoint_url": url, "allow_link_local": True}, "test")
    assert AwsSettings(endpoint_url=url, insecure=True).endpoint == url
    assert AwsSettings(endpoint_url=f"https://{host}").endpoint == f"https://{host}"
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, url)
        with pytest.raises(ConfigurationError, match=f"{name} is http://.* insecure: true"):
            _ = AwsSettings().service_url
        assert AwsSettings(insecure=True).service_url == url
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
    with pytest.raises(ConfigurationError, match=r"AWS_ENDPOINT_URL_STS is http://.* insecure: true"):
        _ = AwsSettings().sts_endpoint


@pytest.mark.parametrize("host", HERE)
def test_plain_http_to_this_machine_needs_no_word(host: str) -> None:
    assert AwsSettings(endpoint_url=f"http://{host}").endpoint == f"http://{host}"


def test_the_order_of_keys_is_of_no_account() -> None:
    assert AwsSettings.parse({"endpoint_url": "http://minio", "insecure": True}, "").endpoint == "http://minio"
    assert AwsSettings.parse({"insecure": True, "endpoint_url": "http://minio"}, "").endpoint == "http://minio"
    with pytest.raises(ConfigurationError, match=r"'insecure'.*'endpoint_url'"):
        AwsSettings.parse({"insecure": "perhaps", "endpoint_url": "http://minio"}, "")


@pytest.mark.parametrize("region", ["evil.example/", "eu-west-1@evil", "a b", "a:1", "", "eu-west-1\n", "é"])
def test_a_region_is_no_part_of_another_host(region: str) -> None:
    with pytest.raises(ConfigurationError, match=r"'region'.* the name of a region"):
        AwsSettings.parse({"region": region}, "test")


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
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://general/")
    assert AwsSettings().endpoint == "https://general"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://for-s3")
    assert AwsSettings().endpoint == "https://for-s3"
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
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://only-s3")
    assert AwsSettings().sts_endpoint is None
    assert AwsSettings(endpoint_url="https://s3.cn-north-1.amazonaws.com.cn").sts_endpoint is None
    assert AwsSettings(endpoint_url="https://own").sts_endpoint == "https://own"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://general")
    assert AwsSettings().sts_endpoint == "https://general"
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://for-sts")
    assert AwsSettings(endpoint_url="https://own").sts_endpoint == "https://for-sts"


def test_the_home_folder_is_expanded() -> None:
    expected = str(Path("~/keys").expanduser())
    assert AwsSettings(aws_credentials_file="~/keys").aws_credentials_file == expected
    assert os.path.isabs(expected)


@pytest.mark.parametrize("url", ["HTTP://localhost:9000", "hTtPs://h/Path/"])
def test_the_scheme_of_an_endpoint_may_be_in_any_case(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, _, rest = url.rstrip("/").partition("://")
    assert AwsSettings(endpoint_url=url).endpoint == f"{scheme.lower()}://{rest}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    assert AwsSettings().service_url == f"{scheme.lower()}://{rest}"
