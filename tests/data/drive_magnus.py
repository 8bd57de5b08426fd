# mypy: ignore-errors
"""
Run by magnus' own Python: have its store classes write a run through their API, and print it as they read it back.

The one argument is JSON: ``store`` (its type), ``config`` (its configuration), ``run_id``, ``scene``.
"""

import json
import sys
from types import SimpleNamespace

from magnus.datastore import ChunkedFileSystemRunLogStore, FileSystemRunLogstore
from magnus_extensions.datastore.chunked_s3.implementation import ChunkedS3Store
from magnus_extensions.datastore.s3.implementation import S3Store

STORES = {
    "file-system": FileSystemRunLogstore,
    "chunked-fs": ChunkedFileSystemRunLogStore,
    "s3": S3Store,
    "chunked-s3": ChunkedS3Store,
}


def add_step(store, run_id, internal_name, name=None, status="SUCCESS", step_type="task"):
    step = store.create_step_log(name or internal_name, internal_name)
    step.step_type = step_type
    step.status = "PROCESSING"
    store.add_step_log(step, run_id)
    attempt = store.create_attempt_log()
    attempt.start_time, attempt.end_time = "2026-11-20 10:00:00.000001", "2026-11-20 10:00:01.5"
    attempt.duration, attempt.status, attempt.parameters = "0:00:01.499999", status, {"lr": 0.1}
    step.attempts.append(attempt)
    identity = store.create_code_identity()
    identity.code_identifier, identity.code_identifier_type = "c0ffee", "git"
    step.code_identities.append(identity)
    entry = store.create_data_catalog(f"data/{name or internal_name}.csv")
    entry.data_hash, entry.stage = "0" * 40, "put"
    step.add_data_catalogs([entry])
    step.user_defined_metrics = {"auc": 0.93, "by_class": {"é": [1, None]}}
    step.status = status
    store.add_step_log(step, run_id)


def add_branch(store, run_id, internal_name, status="SUCCESS"):
    branch = store.create_branch_log(internal_name)
    branch.status = status
    store.add_branch_log(branch, run_id)


def write(store, run_id):
    store.create_run_log(run_id, dag_hash="da60", tag="nightly", original_run_id="earlier")
    store.set_parameters(run_id, {"lr": 0.1})
    store.set_parameters(run_id, {"lr_decay": {"every": [1, None, "é"]}, "big": 2**70, "none": None})
    store.set_run_config(run_id, {"executor": {"type": "local"}})
    add_step(store, run_id, "load")
    add_step(store, run_id, "fan", step_type="parallel")
    for branch in ("fan.b", "fan.a"):
        add_branch(store, run_id, branch)
    add_step(store, run_id, "fan.a.train", "train")
    add_step(store, run_id, "fan.b.train", "train", status="FAIL")
    add_step(store, run_id, "fan.a.each", "each", step_type="map")
    for value in ("2026", "1"):
        add_branch(store, run_id, f"fan.a.each.{value}")
        add_step(store, run_id, f"fan.a.each.{value}.inner-most", "inner-most")
    add_step(store, run_id, "a last-step")
    store.set_parameters(run_id, {"none": "some"})
    store.update_run_log_status(run_id, "FAIL")
    return store.get_run_log_by_id(run_id, full=True)


def write_dotted(store, run_id):
    """Names with dots: in documents the classes hold them, though their own searches do not find them."""
    run_log = write(store, run_id)
    step = run_log.steps["load"].copy(deep=True)
    step.name = step.internal_name = "v1.2 load"
    run_log.steps["v1.2 load"] = step
    fan = run_log.steps["fan"]
    branch = fan.branches["fan.a"].copy(deep=True)
    branch.internal_name = "fan.x.csv"
    inner = step.copy(deep=True)
    inner.name, inner.internal_name = "train.all", "fan.x.csv.train.all"
    branch.steps = {inner.internal_name: inner}
    fan.branches["fan.x.csv"] = branch
    store.put_run_log(run_log)
    return store.get_run_log_by_id(run_id, full=True)


def write_dotted_chunks(store, run_id):
    """Names with dots in chunks: each is written well, and the classes cannot read the run in full any more."""
    store.create_run_log(run_id)
    add_step(store, run_id, "v1.2 load")
    add_step(store, run_id, "fan", step_type="map")
    add_branch(store, run_id, "fan.x.csv")
    add_step(store, run_id, "fan.x.csv.train.all", "train.all")
    store.update_run_log_status(run_id, "SUCCESS")
    return store.get_run_log_by_id(run_id)


def write_races(store, run_id):
    """What its races leave: two objects of one step, a step written over by another, a parameter in another's."""
    store.create_run_log(run_id)
    store.set_parameters(run_id, {"lr_decay": 1})
    store.set_parameters(run_id, {"lr": 2})
    add_step(store, run_id, "load")
    look, store.get_matches = store.get_matches, lambda **_: None
    step = store.create_step_log("load", "load")
    step.status = "FAIL"
    store.add_step_log(step, run_id)
    store.get_matches = look
    add_step(store, run_id, "train-2")
    add_step(store, run_id, "train")
    store.update_run_log_status(run_id, "SUCCESS")
    return store.get_run_log_by_id(run_id, full=True)


def main():
    wanted = json.loads(sys.argv[1])
    store = STORES[wanted["store"]](wanted["config"])
    if "s3" in wanted["store"]:
        # It makes a client for each request, which would be most of the time that this takes.
        client = store.get_boto3_session().client("s3")
        store.get_boto3_session = lambda: SimpleNamespace(client=lambda name: client)
    scene = {"plain": write, "dotted": write_dotted, "dotted-chunks": write_dotted_chunks, "races": write_races}
    print(json.dumps(scene[wanted["scene"]](store, wanted["run_id"]).dict()))  # noqa: T201


main()
