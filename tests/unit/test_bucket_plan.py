"""What a bucket still lacks: what is strengthened, what is kept, and what is sent back as it came."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstore.aws.settings import AwsSettings
from asyncstore.bucket._check_settings import abort_days
from asyncstore.bucket._plan_rules import ABORT_ID, differences, plan_abort, plan_cors, plan_expiry
from asyncstore.bucket.applying import plan_trust
from asyncstore.bucket.cors import RULE_ID, cors_rules
from asyncstore.bucket.documents import BucketAccess, Principal
from asyncstore.bucket.grants import grants_of
from asyncstore.bucket.initializing import State, check_region
from asyncstore.bucket.plan import (
    BLOCKS,
    Difference,
    Verdict,
    WantedBucket,
    plan_access,
    plan_encryption,
    plan_lock,
    plan_versioning,
)
from asyncstore.errors import ConfigurationError

Rule = dict[str, Any]

ORIGIN = "https://app.example.com"
SHOUTED = "https://APP.example.com"
"""What no browser says, and so another origin."""
KEY = "arn:aws:kms:eu-west-1:123456789012:key/abc"
OTHER_KEY = "arn:aws:kms:eu-west-1:123456789012:key/def"
LOCKED = {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}
WHOLE = {"Prefix": ""}


def sent(difference: Difference) -> Any:
    """Return the one document that a change sends."""
    assert difference.call is not None
    return next(iter(difference.call.parameters.values()))


def encrypted(algorithm: str, key: str = "", *, bucket_key: bool = False, **more: Any) -> dict[str, Any]:
    default = {"SSEAlgorithm": algorithm, **({"KMSMasterKeyID": key} if key else {})}
    rule = {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": bucket_key, **more}
    return {"ServerSideEncryptionConfiguration": {"Rules": [rule]}}


def aborting(days: int, **more: Any) -> Rule:
    said = {"ID": f"abort-{days}", "Status": "Enabled", "Filter": WHOLE}
    return {**said, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days}, **more}


def expiring(days: int, prefix: str = "tmp/", **more: Any) -> Rule:
    return {
        "ID": f"expire-{days}",
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "Expiration": {"Days": days},
        **more,
    }


# Public access.


@pytest.mark.parametrize("on", [(), BLOCKS[:1], BLOCKS[1:3]])
def test_every_block_is_put_on(on: tuple[str, ...]) -> None:
    found = plan_access({"PublicAccessBlockConfiguration": {name: name in on for name in BLOCKS}} if on else {})
    assert found.verdict is Verdict.CHANGE
    assert sent(found) == dict.fromkeys(BLOCKS, True)


def test_what_is_blocked_stays() -> None:
    found = plan_access({"PublicAccessBlockConfiguration": dict.fromkeys(BLOCKS, True)})
    assert (found.verdict, found.call) == (Verdict.FINE, None)


# Versioning and object lock.


@pytest.mark.parametrize("answer", [{}, {"Status": "Suspended"}, {"Status": "Suspended", "MFADelete": "Disabled"}])
@pytest.mark.parametrize("force", [False, True])
def test_versioning_that_is_off_is_as_wanted(answer: dict[str, str], force: bool) -> None:
    found = plan_versioning(answer, {}, force=force)
    assert (found.verdict, found.call) == (Verdict.FINE, None)
    assert "run logs" in found.why


def test_versioning_that_is_on_is_suspended_by_force_alone() -> None:
    kept = plan_versioning({"Status": "Enabled"}, {}, force=False)
    assert (kept.verdict, kept.call) == (Verdict.KEPT, None)
    assert "--force suspends it" in kept.why
    assert sent(plan_versioning({"Status": "Enabled"}, {}, force=True)) == {"Status": "Suspended"}


def test_versioning_stays_under_an_object_lock() -> None:
    found = plan_versioning({"Status": "Enabled"}, LOCKED, force=True)
    assert (found.verdict, found.call) == (Verdict.KEPT, None)
    assert "object lock" in found.why


def test_an_object_lock_is_told() -> None:
    retention = {"Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 30}}}
    locked = {"ObjectLockConfiguration": {**LOCKED["ObjectLockConfiguration"], **retention}}
    assert (plan_lock(locked).verdict, plan_lock(locked).call) == (Verdict.KEPT, None)
    assert "30 days" in plan_lock(locked).found
    assert plan_lock({"ObjectLockConfiguration": {}}).verdict is Verdict.FINE


# Encryption.


def test_encryption_is_put_on() -> None:
    assert sent(plan_encryption({}, WantedBucket(), force=False)) == {
        "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}]
    }


def test_a_key_is_put_in_the_place_of_s3s_own() -> None:
    found = plan_encryption(
        encrypted("AES256", BlockedEncryptionTypes=["SSE-C"]), WantedBucket(kms_key=KEY), force=False
    )
    (rule,) = sent(found)["Rules"]
    assert rule == {
        "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY},
        "BucketKeyEnabled": True,
        "BlockedEncryptionTypes": ["SSE-C"],
    }


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        (encrypted("aws:kms", KEY, bucket_key=True), ""),
        (encrypted("aws:kms"), ""),
        (encrypted("aws:kms:dsse", KEY), ""),
        (encrypted("aws:kms:dsse", KEY), KEY),
        (encrypted("of-the-future"), KEY),
    ],
)
def test_stronger_encryption_is_replaced_by_force_alone(answer: dict[str, Any], key: str) -> None:
    wanted = WantedBucket(kms_key=key)
    assert plan_encryption(answer, wanted, force=False).verdict is Verdict.KEPT
    forced = plan_encryption(answer, wanted, force=True)
    assert forced.verdict is Verdict.CHANGE
    default = sent(forced)["Rules"][0]["ApplyServerSideEncryptionByDefault"]
    assert default["SSEAlgorithm"] == ("aws:kms" if key else "AES256")


@pytest.mark.parametrize(
    ("answer", "key", "verdict"),
    [
        (encrypted("AES256"), "", Verdict.FINE),
        (encrypted("AES256", bucket_key=True), "", Verdict.FINE),
        (encrypted("aws:kms", KEY, bucket_key=True), KEY, Verdict.FINE),
        (encrypted("aws:kms", KEY, bucket_key=True), "abc", Verdict.FINE),
        (encrypted("aws:kms", "abc", bucket_key=True), KEY, Verdict.FINE),
        ({}, KEY, Verdict.CHANGE),
        (encrypted("AES256", bucket_key=True), KEY, Verdict.CHANGE),
    ],
)
def test_encryption_as_wanted(answer: dict[str, Any], key: str, verdict: Verdict) -> None:
    assert plan_encryption(answer, WantedBucket(kms_key=key), force=False).verdict is verdict


@pytest.mark.parametrize(
    ("answer", "key", "why"),
    [
        (encrypted("aws:kms", KEY, bucket_key=True), OTHER_KEY, "another key is there"),
        (encrypted("aws:kms", KEY, bucket_key=True), "alias/aws/s3", "another key is there"),
        (encrypted("aws:kms", bucket_key=True), KEY, "another key is there"),
        (encrypted("aws:kms", OTHER_KEY), KEY, "another key is there"),
        (encrypted("aws:kms", KEY), KEY, "its bucket key is off"),
    ],
)
def test_a_key_of_somebody_is_replaced_by_force_alone(answer: dict[str, Any], key: str, why: str) -> None:
    kept = plan_encryption(answer, WantedBucket(kms_key=key), force=False)
    assert (kept.verdict, kept.call) == (Verdict.KEPT, None)
    assert why in kept.why
    (rule,) = sent(plan_encryption(answer, WantedBucket(kms_key=key), force=True))["Rules"]
    assert rule["BucketKeyEnabled"]
    assert rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"] == key


# CORS.


def test_pages_are_let_in_and_rules_of_others_stay() -> None:
    other: Rule = {"ID": "site", "AllowedOrigins": ["https://b.example"], "AllowedMethods": ["GET"], "Unknown": 1}
    found = plan_cors({"CORSRules": [other]}, WantedBucket(origins=(ORIGIN,)), force=False)
    assert sent(found)["CORSRules"] == [other, cors_rules([ORIGIN])[0].document()]
    assert "1 rule of others stays" in found.why


def test_our_origins_are_added_to_and_by_force_replaced() -> None:
    ours = cors_rules(["https://old.example"])[0].document()
    for force, origins in ((False, ["https://old.example", ORIGIN]), (True, [ORIGIN])):
        (rule,) = sent(plan_cors({"CORSRules": [ours]}, WantedBucket(origins=(ORIGIN,)), force=force))["CORSRules"]
        assert (rule["ID"], rule["AllowedOrigins"]) == (RULE_ID, origins)


def test_what_others_added_to_our_rule_stays_and_so_does_its_place() -> None:
    ours = {
        **cors_rules(["https://old.example"])[0].document(),
        "AllowedMethods": ["DELETE", "GET", "HEAD", "POST", "PUT"],
        "AllowedHeaders": ["x-amz-*", "*"],
        "ExposeHeaders": ["etag", "x-amz-version-id"],
        "MaxAgeSeconds": 60,
        "Unknown": 1,
    }
    cdn: Rule = {"ID": "cdn", "AllowedOrigins": ["*"], "AllowedMethods": ["GET"]}
    for force, origins in ((False, ["https://old.example", ORIGIN]), (True, [ORIGIN])):
        found = plan_cors({"CORSRules": [ours, cdn]}, WantedBucket(origins=(ORIGIN,)), force=force)
        assert sent(found)["CORSRules"] == [{**ours, "AllowedOrigins": origins}, cdn]


def test_what_our_rule_lacks_is_added_to_it() -> None:
    ours: Rule = {"ID": RULE_ID, "AllowedOrigins": [ORIGIN], "AllowedMethods": ["DELETE", "GET"]}
    found = plan_cors({"CORSRules": [ours]}, WantedBucket(origins=(ORIGIN,)), force=False)
    assert sent(found)["CORSRules"] == [
        {
            **ours,
            "AllowedMethods": ["DELETE", "GET", "HEAD", "POST", "PUT"],
            "AllowedHeaders": ["*"],
            "ExposeHeaders": ["ETag"],
        }
    ]


def test_an_origin_that_no_browser_says_is_another_one() -> None:
    ours = {**cors_rules([ORIGIN])[0].document(), "AllowedOrigins": [SHOUTED]}
    found = plan_cors({"CORSRules": [ours]}, WantedBucket(origins=(ORIGIN,)), force=False)
    assert sent(found)["CORSRules"][0]["AllowedOrigins"] == [SHOUTED, ORIGIN]


def test_a_narrowed_rule_is_not_widened_for_pages_that_were_not_named() -> None:
    ours = {**cors_rules(["https://old.example"])[0].document(), "AllowedMethods": ["GET"]}
    kept = plan_cors({"CORSRules": [ours]}, WantedBucket(origins=(ORIGIN,)), force=False)
    assert (kept.verdict, kept.call) == (Verdict.KEPT, None)
    assert "--force" in kept.why
    (rule,) = sent(plan_cors({"CORSRules": [ours]}, WantedBucket(origins=(ORIGIN,)), force=True))["CORSRules"]
    assert (rule["AllowedOrigins"], rule["AllowedMethods"]) == ([ORIGIN], ["GET", "HEAD", "POST", "PUT"])


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, Verdict.FINE),
        ({"ID": "theirs", "AllowedOrigins": ["*"]}, Verdict.FINE),
        ({"AllowedOrigins": ["https://*.example.com"]}, Verdict.FINE),
        ({"AllowedOrigins": ["https://*.example.org"]}, Verdict.CHANGE),
        ({"AllowedMethods": ["GET"]}, Verdict.CHANGE),
        ({"AllowedHeaders": ["Authorization"]}, Verdict.CHANGE),
        ({"ExposeHeaders": []}, Verdict.CHANGE),
    ],
)
def test_a_rule_that_lets_pages_in_is_enough(change: Rule, verdict: Verdict) -> None:
    rule = {**cors_rules([ORIGIN])[0].document(), **change}
    assert plan_cors({"CORSRules": [rule]}, WantedBucket(origins=(ORIGIN,)), force=False).verdict is verdict


def test_nothing_is_said_about_cors_without_origins() -> None:
    found = plan_cors({"CORSRules": [{"AllowedOrigins": ["*"]}]}, WantedBucket(), force=True)
    assert (found.verdict, found.call) == (Verdict.LEFT, None)


# Lifecycle.


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        ([], Verdict.CHANGE),
        ([aborting(7)], Verdict.FINE),
        ([aborting(1)], Verdict.FINE),
        ([aborting(30)], Verdict.KEPT),
        ([aborting(30, ID=ABORT_ID)], Verdict.KEPT),
        ([aborting(30), aborting(3)], Verdict.FINE),
        ([aborting(3, Status="Disabled")], Verdict.CHANGE),
        ([aborting(7, ID=ABORT_ID, Status="Disabled")], Verdict.KEPT),
        ([aborting(7, ID=ABORT_ID, Filter={"Prefix": "logs/"})], Verdict.KEPT),
        ([expiring(7, ID=ABORT_ID)], Verdict.KEPT),
        ([aborting(3, Filter={"Prefix": "logs/"})], Verdict.CHANGE),
        ([aborting(3, Filter={"ObjectSizeGreaterThan": 5})], Verdict.CHANGE),
        ([{key: value for key, value in aborting(3, Prefix="").items() if key != "Filter"}], Verdict.FINE),
        ([{key: value for key, value in aborting(3).items() if key != "Filter"}], Verdict.FINE),
    ],
)
def test_unfinished_uploads_are_aborted(rules: list[Rule], verdict: Verdict) -> None:
    found, following = plan_abort({"Rules": rules}, force=False)
    assert found.verdict is verdict
    if verdict is Verdict.CHANGE:
        assert sent(found)["Rules"][-1]["ID"] == ABORT_ID
        assert plan_abort(following, force=False)[0].verdict is Verdict.FINE
    else:
        assert (found.call, following) == (None, {"Rules": rules})
    forced, following = plan_abort({"Rules": rules}, force=True)
    assert forced.verdict is (Verdict.FINE if verdict is Verdict.FINE else Verdict.CHANGE)
    assert plan_abort(following, force=True)[0].verdict is Verdict.FINE


def test_a_longer_time_of_others_is_told_and_undercut_by_force_alone() -> None:
    theirs = aborting(30)
    kept, _ = plan_abort({"Rules": [theirs]}, force=False)
    assert (kept.found, kept.wanted) == ("aborted after 30 days", "aborted after 7 days")
    assert "--force" in kept.why
    forced, _ = plan_abort({"Rules": [theirs]}, force=True)
    assert sent(forced)["Rules"] == [theirs, aborting(7, ID=ABORT_ID)]


NONCURRENT: Rule = {"NoncurrentVersionExpiration": {"NoncurrentDays": 30}}


def test_our_rule_is_set_back_in_its_place_and_keeps_what_was_added() -> None:
    ours = aborting(14, ID=ABORT_ID, **NONCURRENT)
    forced, _ = plan_abort({"Rules": [ours, expiring(5)]}, force=True)
    assert sent(forced)["Rules"] == [aborting(7, ID=ABORT_ID, **NONCURRENT), expiring(5)]


@pytest.mark.parametrize("change", [{"Status": "Disabled"}, {"Filter": {"Prefix": "logs/"}}])
def test_what_was_added_to_a_rule_of_ours_is_never_made_to_reach_further(change: Rule) -> None:
    abort = aborting(7, ID=ABORT_ID, Expiration={"Days": 1}, **change)
    forced, following = plan_abort({"Rules": [abort]}, force=True)
    kept, added = sent(forced)["Rules"]
    assert kept == abort
    assert added == aborting(7, ID=f"{ABORT_ID}-2")
    both = [{**rule, **change} for rule in following["Rules"]]
    names = [rule["ID"] for rule in sent(plan_abort({"Rules": both}, force=True)[0])["Rules"]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("scope", "days"),
    [
        ("<Filter><Prefix></Prefix></Filter>", 3),
        ("<Filter/>", 3),
        ("<Prefix>team/</Prefix>", 3),
        ("<Filter><Prefix>team/</Prefix></Filter>", 3),
        ("<Filter><Prefix>other/</Prefix></Filter>", None),
        ("<Filter><ObjectSizeGreaterThan>1000</ObjectSizeGreaterThan></Filter>", None),
        ("<Filter><ObjectSizeLessThan>1000</ObjectSizeLessThan></Filter>", None),
        ("<Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter>", None),
        ("<Filter><And><Prefix>team/</Prefix><ObjectSizeLessThan>9</ObjectSizeLessThan></And></Filter>", None),
    ],
)
def test_a_rule_of_some_objects_does_not_abort_all_uploads(scope: str, days: int | None) -> None:
    assert abort_days(listed(rule_xml(scope, 3)), "team/") == days


def test_the_shortest_time_counts() -> None:
    assert abort_days(listed(rule_xml("<Filter/>", 30), rule_xml("<Filter/>", 3), rule_xml("", 9)), "team/") == 3


def rule_xml(scope: str, days: int) -> str:
    abort = f"<DaysAfterInitiation>{days}</DaysAfterInitiation>"
    return (
        f"<Rule><Status>Enabled</Status>{scope}"
        f"<AbortIncompleteMultipartUpload>{abort}</AbortIncompleteMultipartUpload></Rule>"
    )


def listed(*rules: str) -> bytes:
    said = "".join(rules)
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<LifecycleConfiguration xmlns="{namespace}">{said}</LifecycleConfiguration>'.encode()


def test_rules_in_the_older_form_are_sent_in_the_newer_one() -> None:
    older = {"ID": "old", "Status": "Enabled", "Prefix": "logs/", "Expiration": {"Days": 9}}
    found, _ = plan_abort({"Rules": [older]}, force=False)
    assert sent(found)["Rules"][0] == {
        **{key: value for key, value in older.items() if key != "Prefix"},
        "Filter": {"Prefix": "logs/"},
    }


def test_the_least_size_for_transitions_is_sent_back() -> None:
    said = {"Rules": [], "TransitionDefaultMinimumObjectSize": "varies_by_storage_class"}
    found, following = plan_abort(said, force=False)
    wanted = WantedBucket(expire_days=5, expire_prefix="tmp")
    for difference in (found, plan_expiry(following, wanted, versioned=False, force=False)):
        assert difference.call is not None
        assert difference.call.parameters["TransitionDefaultMinimumObjectSize"] == "varies_by_storage_class"


def test_what_expires_is_below_the_prefix_alone() -> None:
    found = plan_expiry({}, WantedBucket(expire_days=5, expire_prefix="/tmp"), versioned=False, force=False)
    (rule,) = sent(found)["Rules"]
    assert (rule["Filter"], rule["Expiration"], rule["Status"]) == ({"Prefix": "tmp/"}, {"Days": 5}, "Enabled")


@pytest.mark.parametrize("days", [1, 90])
def test_another_expiry_that_is_there_changes_by_force_alone(days: int) -> None:
    theirs = expiring(days, Transitions=[{"Days": 1, "StorageClass": "GLACIER_IR"}])
    wanted = WantedBucket(expire_days=30, expire_prefix="tmp")
    assert plan_expiry({"Rules": [theirs]}, wanted, versioned=False, force=False).verdict is Verdict.KEPT
    forced = plan_expiry({"Rules": [theirs]}, wanted, versioned=False, force=True)
    assert sent(forced)["Rules"] == [{**theirs, "Expiration": {"Days": 30}}]
    assert plan_expiry({"Rules": [expiring(30)]}, wanted, versioned=False, force=False).verdict is Verdict.FINE


EXPIRY_ID = "asyncstore-expire-tmp/"
TAGGED = {"And": {"Prefix": "tmp/", "Tags": [{"Key": "a", "Value": "b"}]}}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"Status": "Disabled"}, "tmp/ stays"),
        ({"Filter": TAGGED}, "tmp/ expires in part"),
        ({"Filter": {"Prefix": "tmp/a/"}}, "tmp/ expires in part"),
        ({"Filter": {"Prefix": "logs/"}}, "tmp/ stays"),
        ({"Expiration": {"ExpiredObjectDeleteMarker": True}}, "tmp/ stays"),
        ({"Expiration": {"Date": "2031-02-03T00:00:00Z"}}, "tmp/ on 2031-02-03"),
    ],
)
def test_an_expiry_of_ours_that_somebody_changed_is_set_back_by_force_alone(change: Rule, found: str) -> None:
    ours = expiring(9, ID=EXPIRY_ID, **change)
    wanted = WantedBucket(expire_days=9, expire_prefix="tmp")
    kept = plan_expiry({"Rules": [ours]}, wanted, versioned=False, force=False)
    assert (kept.verdict, kept.found, kept.call) == (Verdict.KEPT, found, None)
    assert "--force" in kept.why
    forced = plan_expiry({"Rules": [ours, aborting(7)]}, wanted, versioned=False, force=True)
    assert sent(forced)["Rules"] == [expiring(9, ID=EXPIRY_ID), aborting(7)]


@pytest.mark.parametrize("change", [{"Status": "Disabled"}, {"Filter": TAGGED}])
def test_what_was_added_to_our_expiry_is_never_made_to_reach_further(change: Rule) -> None:
    ours = expiring(9, ID=EXPIRY_ID, **NONCURRENT, **change)
    wanted = WantedBucket(expire_days=9, expire_prefix="tmp")
    forced = plan_expiry({"Rules": [ours]}, wanted, versioned=False, force=True)
    assert sent(forced)["Rules"] == [ours, expiring(9, ID=f"{EXPIRY_ID}-2")]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("scope", [{"Prefix": ""}, {"Prefix": "tm"}, {}])
def test_a_wider_rule_that_deletes_sooner_is_told(scope: Rule, force: bool) -> None:
    wanted = WantedBucket(expire_days=30, expire_prefix="tmp")
    found = plan_expiry({"Rules": [expiring(3, Filter=scope)]}, wanted, versioned=False, force=force)
    assert (found.verdict, found.found, found.call) == (Verdict.KEPT, "tmp/ after 3 days", None)
    assert "sooner" in found.why


def test_a_wider_rule_that_deletes_as_wanted_or_later_is_told() -> None:
    wanted = WantedBucket(expire_days=30, expire_prefix="tmp")
    wide = {"Rules": [expiring(30, Filter=WHOLE)]}
    assert plan_expiry(wide, wanted, versioned=False, force=False).verdict is Verdict.FINE
    later = expiring(365, Filter=WHOLE)
    found = plan_expiry({"Rules": [later]}, wanted, versioned=False, force=False)
    assert found.found == "tmp/ after 365 days"
    assert sent(found)["Rules"] == [later, expiring(30, ID=EXPIRY_ID)]


def test_the_names_of_rules_are_short_enough() -> None:
    found = plan_expiry({}, WantedBucket(expire_days=5, expire_prefix="p" * 900), versioned=False, force=False)
    other = plan_expiry({}, WantedBucket(expire_days=5, expire_prefix="p" * 901), versioned=False, force=False)
    names = [sent(difference)["Rules"][0]["ID"] for difference in (found, other)]
    assert max(map(len, names)) <= 255
    assert names[0] != names[1]


@pytest.mark.parametrize(
    "options",
    [
        {"expire_days": 5},
        {"expire_prefix": "tmp"},
        {"expire_days": 5, "expire_prefix": "/"},
        {"expire_days": 0, "expire_prefix": "tmp"},
        {"origins": ("nowhere",)},
    ],
)
def test_what_cannot_be_wanted_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        WantedBucket(**options)


# All together: whatever is there.

BOOLS = st.booleans()
NAMES = st.sampled_from(["a", "b", RULE_ID, ABORT_ID, "asyncstore-expire-tmp/"])
CORS_RULES = st.lists(
    st.fixed_dictionaries(
        {
            "ID": NAMES,
            "AllowedOrigins": st.lists(st.sampled_from(["*", ORIGIN, SHOUTED, "https://b.example"]), min_size=1),
            "AllowedMethods": st.lists(st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]), min_size=1),
        },
        optional={"AllowedHeaders": st.just(["*"]), "ExposeHeaders": st.just(["ETag"])},
    ),
    unique_by=lambda rule: str(rule["ID"]),
    max_size=4,
)
LIFECYCLE_RULES = st.lists(
    st.fixed_dictionaries(
        {"ID": NAMES, "Status": st.sampled_from(["Enabled", "Disabled"])},
        optional={
            "Filter": st.sampled_from([WHOLE, {"Prefix": "tmp/"}, {"Tag": {"Key": "a", "Value": "b"}}, TAGGED]),
            "AbortIncompleteMultipartUpload": st.builds(lambda days: {"DaysAfterInitiation": days}, st.integers(1, 30)),
            "Expiration": st.builds(lambda days: {"Days": days}, st.integers(1, 30)),
            "NoncurrentVersionExpiration": st.just({"NoncurrentDays": 30}),
        },
    ),
    unique_by=lambda rule: str(rule["ID"]),
    max_size=4,
)
ANSWERS = st.fixed_dictionaries(
    {
        "public access": st.builds(
            lambda blocks: {"PublicAccessBlockConfiguration": blocks},
            st.fixed_dictionaries(dict.fromkeys(BLOCKS, BOOLS)),
        ),
        "encryption": st.sampled_from(
            [
                {},
                encrypted("AES256"),
                encrypted("aws:kms", KEY),
                encrypted("aws:kms", OTHER_KEY, bucket_key=True),
                encrypted("aws:kms:dsse", KEY, bucket_key=True),
            ]
        ),
        "object lock": st.sampled_from([{}, LOCKED]),
        "versioning": st.sampled_from([{}, {"Status": "Enabled"}, {"Status": "Suspended"}]),
        "CORS": st.builds(lambda rules: {"CORSRules": rules}, CORS_RULES),
        "lifecycle": st.builds(lambda rules: {"Rules": rules}, LIFECYCLE_RULES),
    }
)
WANTED = st.sampled_from(
    [
        WantedBucket(),
        WantedBucket(origins=(ORIGIN,), kms_key=KEY),
        WantedBucket(origins=(ORIGIN, "https://c.example"), expire_days=9, expire_prefix="tmp"),
    ]
)
_HOMES = {
    "put_public_access_block": ("public access", "PublicAccessBlockConfiguration"),
    "put_bucket_encryption": ("encryption", "ServerSideEncryptionConfiguration"),
    "put_bucket_cors": ("CORS", ""),
    "put_bucket_lifecycle_configuration": ("lifecycle", ""),
    "put_bucket_versioning": ("versioning", ""),
}


def changed(answers: dict[str, Any], planned: list[Difference]) -> dict[str, Any]:
    """Return what S3 would answer after the changes."""
    after = dict(answers)
    for difference in planned:
        if difference.call is not None:
            name, wrapped = _HOMES[difference.call.operation]
            after[name] = {wrapped: sent(difference)} if wrapped else sent(difference)
    return after


@given(answers=ANSWERS, wanted=WANTED, force=BOOLS)
def test_a_second_run_finds_nothing_to_do(answers: dict[str, Any], wanted: WantedBucket, force: bool) -> None:
    planned = list(differences(answers, wanted, force=force))
    again = list(differences(changed(answers, planned), wanted, force=force))
    assert [difference.setting for difference in again if difference.verdict is Verdict.CHANGE] == []
    done = {difference.setting for difference in planned if difference.verdict is Verdict.CHANGE}
    assert {difference.verdict for difference in again if difference.setting in done} <= {Verdict.FINE}


@given(answers=ANSWERS, wanted=WANTED)
def test_nothing_becomes_weaker_and_nothing_of_others_goes(answers: dict[str, Any], wanted: WantedBucket) -> None:
    after = changed(answers, list(differences(answers, wanted, force=False)))
    assert after["versioning"] == answers["versioning"]
    assert all(after["public access"]["PublicAccessBlockConfiguration"].values())
    if "aws:kms" in str(answers["encryption"]):
        assert after["encryption"] == answers["encryption"]
    rules = answers["lifecycle"]["Rules"]
    assert after["lifecycle"]["Rules"][: len(rules)] == rules
    rules = answers["CORS"]["CORSRules"]
    for before, rule in zip(rules, after["CORS"]["CORSRules"], strict=False):
        assert rule == before or rule["ID"] == before["ID"] == RULE_ID
        for key in before.keys() - {"ID"}:
            assert rule[key][: len(before[key])] == before[key], "what is there stays, in its order"


@given(answers=ANSWERS, wanted=WANTED, force=BOOLS)
def test_nothing_that_others_added_goes_or_reaches_further(
    answers: dict[str, Any], wanted: WantedBucket, force: bool
) -> None:
    after = changed(answers, list(differences(answers, wanted, force=force)))
    rules = {rule["ID"]: rule for rule in after["lifecycle"]["Rules"]}
    assert len(rules) == len(after["lifecycle"]["Rules"])
    for before in answers["lifecycle"]["Rules"]:
        rule = rules[before["ID"]]
        assert set(before) <= set(rule)
        if "NoncurrentVersionExpiration" in before:
            assert rule["Status"] == before["Status"]
            assert (rule.get("Filter") or WHOLE) == (before.get("Filter") or WHOLE)


# Regions and roles.


def test_a_bucket_in_another_region_is_refused_on_aws_alone() -> None:
    check_region("eu-west-1", "data", AwsSettings())
    check_region("", "data", AwsSettings())
    check_region("us-east-1", "data", AwsSettings(endpoint_url="http://127.0.0.1:9000"))
    with pytest.raises(ConfigurationError, match="is in us-east-1 and not in eu-west-1: say so by --region us-east-1"):
        check_region("us-east-1", "data", AwsSettings())


ALICE = Principal("alice", "123456789012")
(ROLE,) = grants_of(
    BucketAccess(bucket="data", multipart_role_arn="arn:aws:iam::123456789012:role/uploads", principal=ALICE)
).roles
OURS = ROLE.trust["Statement"][0]
BOB = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:user/bob"}, "Action": "sts:AssumeRole"}
CONDITION = {"Condition": {"StringEquals": {"sts:ExternalId": "x"}}}


@pytest.mark.parametrize(
    ("statements", "state"),
    [
        ([OURS], State.FINE),
        (OURS, State.FINE),
        ([BOB, OURS], State.FINE),
        ([{**OURS, "Action": ["sts:TagSession", "sts:AssumeRole"]}], State.FINE),
        ([{**OURS, "Principal": {"AWS": [ALICE.arn, "arn:aws:iam::1:root"]}}], State.FINE),
        ([BOB], State.TO_CHANGE),
        ([{**OURS, "Effect": "Deny"}], State.TO_CHANGE),
        ([{**OURS, "Principal": {"Service": "ec2.amazonaws.com"}}], State.TO_CHANGE),
        ([{**OURS, **CONDITION}], State.KEPT),
        ([{**OURS, **CONDITION}, OURS], State.FINE),
    ],
)
def test_who_may_take_a_role_on(statements: Any, state: State) -> None:
    trust = {"Version": "2012-10-17", "Statement": statements}
    (step,) = plan_trust(ROLE, {"AssumeRolePolicyDocument": trust, "MaxSessionDuration": 3600}, ALICE, force=False)
    assert step.state is state
    if state is State.TO_CHANGE:
        assert step.operation == "update_assume_role_policy"


def test_those_who_may_take_a_role_on_still_may() -> None:
    trust = {"Version": "2012-10-17", "Statement": [BOB, {**OURS, **CONDITION}]}
    (step,) = plan_trust(ROLE, {"AssumeRolePolicyDocument": trust}, ALICE, force=True)
    assert step.parameters["PolicyDocument"].count("user/bob") == 1
    assert step.parameters["PolicyDocument"].count("user/alice") == 2


def test_sessions_are_made_long_enough_and_never_shorter() -> None:
    trust = {"Version": "2012-10-17", "Statement": [OURS]}
    for limit_s, operations in ((900, ["", "update_role"]), (43_200, [""])):
        steps = plan_trust(ROLE, {"AssumeRolePolicyDocument": trust, "MaxSessionDuration": limit_s}, ALICE, force=False)
        assert [step.operation for step in steps] == operations
