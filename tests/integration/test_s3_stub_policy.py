"""The stub decides by policy documents what AWS is documented, or known, to decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from asyncstore.testing.servers import ServerError
from tests._aws_clients import aws_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.testing.s3_stub import StubServer
    from asyncstore.testing.servers import Bucket

KEY = "arn:aws:kms:eu-west-1:123456789012:key/abc"
ALIAS = "arn:aws:kms:eu-west-1:123456789012:alias/logs"


@pytest.fixture
def client(stub_bucket: Bucket) -> Any:
    return aws_client(stub_bucket.server)


@pytest.fixture
def allow(s3_stub: StubServer, stub_bucket: Bucket) -> Callable[..., None]:
    def set_policy(*actions: str, prefix: str = "", **more: Any) -> None:
        arn = f"arn:aws:s3:::{stub_bucket.name}"
        on_bucket = [action for action in actions if action.startswith(("s3:List", "s3:GetBucket"))]
        on_bucket = [action for action in on_bucket if action != "s3:ListMultipartUploadParts"]
        on_objects = [action for action in actions if action not in on_bucket and action.startswith("s3:")]
        on_key = [action for action in actions if action.startswith("kms:")]
        statements = []
        for listed, resource, condition in (
            (on_bucket, arn, {"StringLike": {"s3:prefix": f"{prefix}*"}} if prefix else {}),
            (on_objects, f"{arn}/{prefix}*", {}),
            (on_key, KEY, {"StringEquals": {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}}),
        ):
            if listed:
                said = {"Effect": "Allow", "Action": listed, "Resource": resource}
                statements.append(said | ({"Condition": condition} if condition else {}))
        s3_stub.configure(policies={"*": {"Version": "2012-10-17", "Statement": [*statements, *more.values()]}})

    return set_policy


def code(call: Callable[..., Any], **arguments: Any) -> str:
    """Return the error's code, or nothing if there is no error; a HEAD has its status alone."""
    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def test_without_a_policy_everything_is_allowed(client: Any, stub_bucket: Bucket) -> None:
    assert code(client.put_object, Bucket=stub_bucket.name, Key="a", Body=b"x") == ""


def test_a_missing_key_is_404_only_to_who_may_list_it(
    client: Any, stub_bucket: Bucket, allow: Callable[..., None]
) -> None:
    name = stub_bucket.name
    allow("s3:GetObject")
    assert code(client.get_object, Bucket=name, Key="team/a") == "AccessDenied"
    assert code(client.head_object, Bucket=name, Key="team/a") == "403"
    allow("s3:GetObject", "s3:ListBucket", prefix="team/")
    assert code(client.get_object, Bucket=name, Key="team/a") == "NoSuchKey"
    assert code(client.head_object, Bucket=name, Key="team/a") == "404"
    assert code(client.get_object, Bucket=name, Key="other") == "AccessDenied"
    allow("s3:ListBucket")
    assert code(client.head_object, Bucket=name, Key="team/a") == "403"


def test_a_prefix_is_asked_of_listings_alone(client: Any, stub_bucket: Bucket, allow: Callable[..., None]) -> None:
    name = stub_bucket.name
    allow("s3:ListBucket", "s3:ListBucketMultipartUploads", prefix="team/")
    assert code(client.list_objects_v2, Bucket=name, Prefix="team/a") == ""
    assert code(client.list_objects_v2, Bucket=name, Prefix="tea") == "AccessDenied"
    assert code(client.list_objects_v2, Bucket=name) == "AccessDenied"
    assert code(client.head_bucket, Bucket=name) == "403"
    # IAM has no condition on the prefix of this one, so a statement with one never allows it.
    assert code(client.list_multipart_uploads, Bucket=name, Prefix="team/a") == "AccessDenied"


def test_a_copy_reads_its_source_and_writes_its_target(
    client: Any, stub_bucket: Bucket, allow: Callable[..., None]
) -> None:
    name = stub_bucket.name
    client.put_object(Bucket=name, Key="a", Body=b"x", Tagging="team=a")
    copy = {"Bucket": name, "Key": "b", "CopySource": f"{name}/a"}
    for lacking in ("s3:GetObject", "s3:PutObject", "s3:GetObjectTagging", "s3:PutObjectTagging"):
        allow(*({"s3:GetObject", "s3:PutObject", "s3:GetObjectTagging", "s3:PutObjectTagging"} - {lacking}))
        assert code(client.copy_object, **copy) == "AccessDenied", lacking
    allow("s3:GetObject", "s3:PutObject", "s3:PutObjectTagging")
    assert code(client.copy_object, **copy, Tagging="team=b", TaggingDirective="REPLACE") == ""
    assert code(client.copy_object, **{**copy, "CopySource": f"{name}/none"}) == "AccessDenied"


def test_an_upload_in_parts(client: Any, stub_bucket: Bucket, allow: Callable[..., None]) -> None:
    name = stub_bucket.name
    allow("s3:ListBucket")
    assert code(client.create_multipart_upload, Bucket=name, Key="a") == "AccessDenied"
    allow("s3:PutObject")
    of = {"Bucket": name, "Key": "a", "UploadId": client.create_multipart_upload(Bucket=name, Key="a")["UploadId"]}
    etag = client.upload_part(**of, PartNumber=1, Body=b"x")["ETag"]
    assert code(client.list_parts, **of) == "AccessDenied"
    assert code(client.abort_multipart_upload, **of) == "AccessDenied"
    assert code(client.list_multipart_uploads, Bucket=name) == "AccessDenied"
    allow("s3:ListMultipartUploadParts", "s3:AbortMultipartUpload", "s3:ListBucketMultipartUploads")
    assert code(client.list_parts, **of) == ""
    assert code(client.list_multipart_uploads, Bucket=name) == ""
    done = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    assert code(client.complete_multipart_upload, **of, MultipartUpload=done) == "AccessDenied"
    assert code(client.abort_multipart_upload, **of) == ""


def test_many_deletions_are_denied_one_by_one(client: Any, stub_bucket: Bucket, allow: Callable[..., None]) -> None:
    name = stub_bucket.name
    for key in ("team/a", "other"):
        client.put_object(Bucket=name, Key=key, Body=b"x")
    allow("s3:DeleteObject", prefix="team/")
    wanted = {"Objects": [{"Key": "team/a"}, {"Key": "other"}]}
    answer = client.delete_objects(Bucket=name, Delete=wanted)
    assert [deleted["Key"] for deleted in answer["Deleted"]] == ["team/a"]
    assert [(error["Key"], error["Code"]) for error in answer["Errors"]] == [("other", "AccessDenied")]
    allow("s3:GetObject", "s3:ListBucket")
    assert code(client.head_object, Bucket=name, Key="other") == ""


def test_tags_and_keys(client: Any, stub_bucket: Bucket, allow: Callable[..., None]) -> None:
    put = {"Bucket": stub_bucket.name, "Key": "a", "Body": b"x"}
    encrypted = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KEY}
    allow("s3:PutObject", "s3:GetObject")
    assert code(client.put_object, **put, Tagging="a=b") == "AccessDenied"
    assert code(client.put_object, **put, **encrypted) == "AccessDenied"
    allow("s3:PutObject", "s3:GetObject", "s3:PutObjectTagging", "kms:GenerateDataKey")
    assert code(client.put_object, **put, **encrypted, Tagging="a=b") == ""
    assert code(client.head_object, Bucket=stub_bucket.name, Key="a") == ""
    assert code(client.get_object, Bucket=stub_bucket.name, Key="a") == "AccessDenied"
    allow("s3:GetObject", "kms:Decrypt")
    assert code(client.get_object, Bucket=stub_bucket.name, Key="a") == ""


def test_a_key_behind_an_alias(client: Any, stub_bucket: Bucket, allow: Callable[..., None]) -> None:
    encrypted = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": ALIAS}
    put = {"Bucket": stub_bucket.name, "Key": "a", "Body": b"x", **encrypted}
    aliases = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/logs"}}
    resource = "arn:aws:kms:eu-west-1:123456789012:key/*"
    by_alias = {"Effect": "Allow", "Action": "kms:*", "Resource": resource, "Condition": aliases}
    allow("s3:PutObject", more=by_alias)
    assert code(client.put_object, **put) == ""
    aliases["ForAnyValue:StringEquals"]["kms:ResourceAliases"] = "alias/other"
    allow("s3:PutObject", more=by_alias)
    assert code(client.put_object, **put) == "AccessDenied"
    allow("s3:PutObject", more={"Effect": "Allow", "Action": "kms:*", "Resource": ALIAS})
    assert code(client.put_object, **put) == "AccessDenied"


def test_to_write_on_a_condition_tells_of_what_is_there(
    client: Any, stub_bucket: Bucket, allow: Callable[..., None]
) -> None:
    put = {"Bucket": stub_bucket.name, "Key": "a", "Body": b"x"}
    etag = client.put_object(**put)["ETag"]
    allow("s3:PutObject")
    assert code(client.put_object, **put, IfMatch=etag) == "AccessDenied"
    assert code(client.put_object, **put, IfNoneMatch="*") == "PreconditionFailed"
    allow("s3:PutObject", "s3:GetObject")
    assert code(client.put_object, **put, IfMatch=etag) == ""


def test_the_settings_of_a_bucket(client: Any, stub_bucket: Bucket, allow: Callable[..., None]) -> None:
    name = stub_bucket.name
    calls = {
        "s3:GetBucketVersioning": (client.get_bucket_versioning, ""),
        "s3:GetBucketLocation": (client.get_bucket_location, ""),
        "s3:GetBucketCORS": (client.get_bucket_cors, "NoSuchCORSConfiguration"),
        "s3:GetLifecycleConfiguration": (client.get_bucket_lifecycle_configuration, "NoSuchLifecycleConfiguration"),
    }
    arn = f"arn:aws:s3:::{name}"
    for action, (call, answer) in calls.items():
        allow("s3:GetObject")
        assert code(call, Bucket=name) == "AccessDenied"
        allow("s3:GetObject", more={"Effect": "Allow", "Action": action, "Resource": arn})
        assert code(call, Bucket=name) == answer


def test_another_access_key_has_another_policy(client: Any, stub_bucket: Bucket, s3_stub: StubServer) -> None:
    nothing = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}
    s3_stub.configure(policies={"ASIA*": nothing})
    assert code(client.put_object, Bucket=stub_bucket.name, Key="a", Body=b"x") == ""
    s3_stub.configure(policies={"accesskey?": nothing})
    assert code(client.put_object, Bucket=stub_bucket.name, Key="a", Body=b"x") == "AccessDenied"


def test_what_is_no_policy_is_refused_at_once(s3_stub: StubServer) -> None:
    with pytest.raises(ServerError, match="Principal"):
        s3_stub.configure(
            policies={
                "*": {
                    "Version": "2012-10-17",
                    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*", "Principal": "*"}],
                }
            }
        )
