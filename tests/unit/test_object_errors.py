"""What servers' refusals are told as."""

from __future__ import annotations

import pytest
from obstore import exceptions as obs

from asyncstore.errors import AccessDeniedError, AsyncStoreError, ConfigurationError, NotFoundError, UnavailableError
from asyncstore.objects._errors import from_obstore, from_s3_code

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
    ],
)
def test_codes_and_statuses(code: str, status: int, kind: type[AsyncStoreError]) -> None:
    assert type(from_s3_code(code, status, "put")) is kind
