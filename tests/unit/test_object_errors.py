"""What servers' refusals are told as."""

from __future__ import annotations

import pytest
from obstore import exceptions as obs

from asyncstore.errors import (
    AccessDeniedError,
    AsyncStoreError,
    ConfigurationError,
    CredentialsError,
    NotFoundError,
    UnavailableError,
)
from asyncstore.objects._errors import (
    RefusedKeysError,
    SkewedError,
    UnexplainedError,
    from_obstore,
    from_s3_code,
    server_time_s,
)

NOT_S3 = "Error performing {} http://h/b/k in 1ms - Server returned non-2xx status code: 404 Not Found: {}"


def test_a_key_refused_in_a_bulk_delete_is_not_a_lost_connection() -> None:
    refusal = obs.GenericError(
        "Generic S3 error: DeleteObjects failed for key a/b: Access Denied (code: AccessDenied)\n\nDebug source:"
    )
    told = from_obstore(refusal, "delete s3://b/a/b")
    assert type(told) is AccessDeniedError
    assert "a permission is missing" in str(told)


def test_a_key_that_looks_like_a_code_is_not_taken_for_one() -> None:
    text = "Object at location k (code: AccessDenied) not found: " + NOT_S3.format("HEAD", "")
    assert type(from_obstore(FileNotFoundError(text), "head")) is NotFoundError


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_a_404_without_a_code_does_not_come_from_s3(method: str) -> None:
    error = FileNotFoundError(NOT_S3.format(method, "<html>no</html>"))
    with pytest.raises(ConfigurationError, match="does not answer like S3: mend endpoint_url"):
        raise from_obstore(error, "get s3://b/k")


def test_a_404_of_s3_or_without_a_body_is_not_found() -> None:
    of_s3 = FileNotFoundError(NOT_S3.format("GET", "<Error><Code>NoSuchKey</Code></Error>"))
    assert type(from_obstore(of_s3, "get")) is NotFoundError
    assert type(from_obstore(FileNotFoundError(NOT_S3.format("HEAD", "")), "head")) is NotFoundError


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NotImplemented", 501, ConfigurationError),
        ("", 501, ConfigurationError),
        ("", 500, UnavailableError),
        ("InvalidArgument", 400, AsyncStoreError),
        ("ExpiredToken", 400, RefusedKeysError),
        ("InvalidToken", 400, RefusedKeysError),
        ("TokenRefreshRequired", 400, RefusedKeysError),
        ("InvalidAccessKeyId", 403, RefusedKeysError),
        ("RequestTimeTooSkewed", 403, SkewedError),
        ("RequestExpired", 400, SkewedError),
        ("SignatureDoesNotMatch", 403, CredentialsError),
        ("", 400, AsyncStoreError),
    ],
)
def test_codes_and_statuses(code: str, status: int, kind: type[AsyncStoreError]) -> None:
    assert type(from_s3_code(code, status, "put")) is kind


def test_a_bad_request_without_a_body_may_be_about_keys() -> None:
    assert type(from_s3_code("", 400, "head", bodiless=True)) is UnexplainedError
    refusal = obs.GenericError(
        "Error performing HEAD http://h/b/k in 1ms - Server returned non-2xx status code: 400 Bad Request: "
    )
    assert type(from_obstore(refusal, "head")) is UnexplainedError


def test_the_time_of_a_server_is_in_the_body_or_in_the_head() -> None:
    said = "<ServerTime>2026-11-21T10:00:00Z</ServerTime>"
    assert server_time_s(said) == 1795255200.0
    assert server_time_s(said, "Sat, 21 Nov 2026 11:00:00 GMT") == 1795255200.0
    assert server_time_s("", "Sat, 21 Nov 2026 11:00:00 GMT") == 1795258800.0
    assert server_time_s("<ServerTime>noon</ServerTime>", "Sat, 21 Nov 2026 11:00:00 GMT") == 1795258800.0
    for nonsense in ("", "noon", "Sat, 99 Nov 2026 11:00:00 GMT"):
        assert server_time_s("", nonsense) is None
    refusal = obs.PermissionDeniedError(
        "Error performing PUT http://h/b/k in 1ms - Server returned non-2xx status code: 403 Forbidden: "
        f"<Error><Code>RequestTimeTooSkewed</Code>{said}</Error>"
    )
    told = from_obstore(refusal, "put")
    assert isinstance(told, SkewedError)
    assert told.server_s == 1795255200.0
