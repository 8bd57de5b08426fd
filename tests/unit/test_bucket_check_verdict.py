"""Which permission is missing, as far as what was seen of all checks can tell."""

from __future__ import annotations

from asyncstore._core.access import Access
from asyncstore.aws.settings import AwsSettings
from asyncstore.bucket._check_plan import Plan, plan_checks
from asyncstore.bucket._check_verdict import Seen, granting, judge

OK = Seen("ok")
DENIED = Seen("denied")
KEY = "arn:aws:kms:eu-west-1:123456789012:key/abc"
ROLE = "arn:aws:iam::123456789012:role/uploads"


def plan(access: Access | None = None, **options: object) -> Plan:
    settings = AwsSettings.parse(options, "test")
    return plan_checks("logs", "team/", settings, origin="", access=access or Access())


def missing(plan: Plan, seen: dict[str, Seen]) -> dict[str, str]:
    return {finding.check: finding.permission for finding in judge(plan, seen) if finding.state == "missing"}


def test_what_is_configured_decides_what_is_tried() -> None:
    plain, full = plan(), plan(role_arn=ROLE, kms_key_arn=KEY, multipart_upload_role_arn=ROLE, object_tags={"a": "b"})
    skipped = {step.name for step in plain.steps if step.skip}
    assert skipped == {"assume role", "assume multipart role", "kms", "cors"}
    assert {step.name for step in full.steps if step.skip} == {"cors"}
    assert {step.name for step in full.steps} - {step.name for step in plain.steps} == {
        "put without tags and key",
        "put without tags",
        "put without key",
    }
    assert all(finding.check != "put without key" for finding in judge(full, {}))


def test_a_store_that_may_not_be_written_is_not_written() -> None:
    reading = plan(Access(allow_write=False), kms_key_arn=KEY)
    wanted = {step.name for step in reading.steps if not step.skip}
    assert wanted == {"region", "clock", "list", "absent key", "versioning", "lifecycle"}
    writing = plan(Access(allow_read=False))
    assert not {"list", "get", "head", "range"} & {step.name for step in writing.steps if not step.skip}
    assert writing.is_wanted("put")


def test_one_permission() -> None:
    assert missing(plan(), {"put": OK, "delete": DENIED}) == {"delete": "s3:DeleteObject"}


def test_what_others_were_allowed_is_not_what_is_missing() -> None:
    encrypted = plan(kms_key_arn=KEY)
    assert missing(encrypted, {"head": OK, "get": DENIED, "range": DENIED}) == {
        "get": "kms:Decrypt",
        "range": "kms:Decrypt",
    }
    assert missing(plan(), {"put": OK, "get": OK, "list": DENIED, "absent key": DENIED}) == {
        "list": "s3:ListBucket",
        "absent key": "s3:ListBucket",
    }


def test_what_is_surely_missing_explains_the_rest() -> None:
    seen = {"put": DENIED, "conditional create": DENIED, "put without tags and key": DENIED}
    assert set(missing(plan(kms_key_arn=KEY), seen).values()) == {"s3:PutObject"}


def test_puts_that_say_less_tell_tags_from_key() -> None:
    both = plan(kms_key_arn=KEY, object_tags={"a": "b"})
    seen = {"put": DENIED, "put without tags and key": OK, "put without key": DENIED, "put without tags": OK}
    assert missing(both, seen) == {"put": "s3:PutObjectTagging"}
    seen |= {"put without key": OK, "put without tags": DENIED}
    assert missing(both, seen) == {"put": "kms:GenerateDataKey"}


def test_what_cannot_be_told_apart_is_named_together() -> None:
    found = next(finding for finding in judge(plan(kms_key_arn=KEY), {"get": DENIED}) if finding.check == "get")
    assert found.permission == "s3:GetObject, kms:Decrypt"
    assert "s3:GetObject or kms:Decrypt is missing" in found.detail


def test_the_servers_own_words_go_before() -> None:
    seen = {"get": Seen("denied", action="kms:Decrypt"), "head": DENIED}
    assert missing(plan(kms_key_arn=KEY), seen) == {"get": "kms:Decrypt", "head": "s3:GetObject"}


def test_what_is_denied_explicitly_is_granted_by_nothing() -> None:
    seen = {
        "put": Seen("denied", action="s3:PutObject", forbidden_by="a service control policy"),
        "conditional create": DENIED,
        "delete": DENIED,
        "list": Seen("denied", action="s3:ListBucket"),
    }
    found = {finding.check: finding for finding in judge(plan(), seen)}
    for name in ("put", "conditional create"):
        assert (found[name].permission, found[name].statement) == ("s3:PutObject", None)
        assert "is denied explicitly, by a service control policy" in found[name].detail
    assert "s3:DeleteObject is missing, or is denied explicitly" in found["delete"].detail
    assert "s3:ListBucket is missing: " in found["list"].detail
    granted = {action for statement in granting(found.values()) for action in statement["Action"]}
    assert granted == {"s3:DeleteObject", "s3:ListBucket"}


def test_what_the_multipart_role_is_denied_explicitly() -> None:
    two = plan(multipart_upload_role_arn=ROLE)
    seen = {"multipart create": Seen("denied", action="s3:PutObject", forbidden_by="a policy"), "put": DENIED}
    found = {finding.check: finding for finding in judge(two, seen)}
    assert "the multipart role is denied s3:PutObject explicitly, by a policy" in found["multipart create"].detail
    assert "or is denied explicitly" in found["put"].detail


def test_denied_though_nothing_is_missing() -> None:
    found = next(finding for finding in judge(plan(), {"put": OK, "checksum": DENIED}) if finding.check == "checksum")
    assert (found.state, found.permission) == ("missing", "")
    assert "the bucket's or the key's policy" in found.detail


def test_another_roles_permissions_are_another_matter() -> None:
    two = plan(multipart_upload_role_arn=ROLE)
    found = next(
        finding
        for finding in judge(two, {"put": OK, "multipart create": DENIED})
        if finding.check == "multipart create"
    )
    assert found.permission == "s3:PutObject"
    assert "the multipart role lacks" in found.detail
    assert found.role == ROLE


def test_whose_policy_is_to_grant_it() -> None:
    roles = plan(role_arn=f"{ROLE}-worker", multipart_upload_role_arn=ROLE)
    seen = {"delete": DENIED, "multipart part": DENIED, "assume multipart role": DENIED}
    assert {finding.check: finding.role for finding in judge(roles, seen) if finding.is_problem} == {
        "delete": f"{ROLE}-worker",
        "multipart part": ROLE,
        "assume multipart role": "",
    }


def test_statements_are_merged_into_a_policy_that_iam_takes() -> None:
    seen = {"put": OK, "delete": DENIED, "multipart abort": DENIED, "list": DENIED, "multipart list": DENIED}
    statements = granting(judge(plan(), seen))
    assert [(statement["Sid"], statement["Action"]) for statement in statements] == [
        ("UseObjects", ["s3:AbortMultipartUpload", "s3:DeleteObject"]),
        ("ListObjects", ["s3:ListBucket"]),
        ("ListUploads", ["s3:ListBucketMultipartUploads"]),
    ]
    assert statements[0]["Resource"] == ["arn:aws:s3:::logs/team/*"]
    assert statements[1]["Condition"] == {"StringLike": {"s3:prefix": ["team/*"]}}


def test_statements_of_two_buckets_have_names_of_their_own() -> None:
    other = plan_checks("data", "", AwsSettings(), origin="", access=Access())
    seen = {"put": OK, "delete": DENIED}
    statements = granting([*judge(plan(), seen), *judge(other, seen), *judge(plan(), seen)])
    assert [statement["Sid"] for statement in statements] == ["UseObjects", "UseObjects2"]


def test_what_was_not_come_to_is_skipped() -> None:
    found = {finding.check: finding for finding in judge(plan(), {})}
    assert found["put"].state == "skipped"
    assert found["kms"].detail == "no kms_key_arn is configured"
