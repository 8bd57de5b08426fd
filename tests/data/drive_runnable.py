# mypy: ignore-errors
"""
Run by runnable's own Python: have its store classes write a run through their API, and print it as they read it back.

The one argument is JSON: ``store`` (its type), ``config`` (its configuration), ``run_id``, ``scene``.
"""

import json
import sys
from types import SimpleNamespace

from extensions.run_log_store.chunked_fs import ChunkedFileSystemRunLogStore
from extensions.run_log_store.chunked_minio import ChunkedMinioRunLogStore
from extensions.run_log_store.file_system import FileSystemRunLogstore
from extensions.run_log_store.minio import MinioRunLogStore
from runnable.datastore import (
    BranchLog,
    CodeIdentity,
    DataCatalog,
    JsonParameter,
    MetricParameter,
    StepAttempt,
    StepLog,
)

STORES = {
    "file-system": FileSystemRunLogstore,
    "chunked-fs": ChunkedFileSystemRunLogStore,
    "minio": MinioRunLogStore,
    "chunked-minio": ChunkedMinioRunLogStore,
}


def with_context(cls, run_id):
    """Give a class the run that its stores otherwise learn of from a pipeline that is being run."""
    return type(cls.__name__, (cls,), {"_context": property(lambda self: SimpleNamespace(run_id=run_id))})


def json_of(value):
    return JsonParameter(kind="json", value=value)


def step_of(internal_name, name=None, status="SUCCESS", step_type="task", second=0):
    return StepLog(
        name=name or internal_name,
        internal_name=internal_name,
        status=status,
        step_type=step_type,
        attempts=[
            StepAttempt(
                start_time=f"2026-11-20 10:00:{second:02}.000001",
                end_time=f"2026-11-20 10:00:{second:02}.900000",
                status=status,
                input_parameters={"lr": json_of(0.1)},
                output_parameters={"rows": json_of([1, None, {"é": "long enough to be cut"}])},
                user_defined_metrics={"auc": MetricParameter(kind="metric", value=0.93)},
                code_identities=[CodeIdentity(code_identifier="c0ffee", code_identifier_type="git")],
            )
        ],
        data_catalog=[DataCatalog(name=f"data/{internal_name}.csv", data_hash="0" * 64, stage="put")],
    )


def write(store, run_id):
    store.create_run_log(run_id, dag_hash="da60", tag="nightly")
    store.set_parameters(run_id, {"lr": json_of(0.1)})
    store.set_parameters(
        run_id, {"lr_decay": json_of({"every": [1, None]}), "auc": MetricParameter(kind="metric", value=1)}
    )
    store.set_run_config(run_id, {"executor": {"type": "local"}})
    store.add_step_log(step_of("load"), run_id)
    store.add_step_log(step_of("fan", step_type="parallel"), run_id)
    for second, branch in enumerate(("fan.b", "fan.a"), 5):
        store.add_branch_log(BranchLog(internal_name=branch, status="SUCCESS"), run_id)
        store.set_parameters(run_id, {"only here": json_of(branch)}, internal_branch_name=branch)
        store.add_step_log(step_of(f"{branch}.train", "train", second=second), run_id)
    store.add_step_log(step_of("a last-step", second=20), run_id)
    store.set_parameters(run_id, {"lr": json_of(0.2)})
    store.update_run_log_status(run_id, "SUCCESS")
    return store.get_run_log_by_id(run_id, full=True)


def write_dotted(store, run_id):
    """Names with dots: the classes hold them, though their own searches do not find them."""
    run_log = write(store, run_id)
    run_log.steps["v1.2 load"] = step_of("v1.2 load")
    branch = BranchLog(internal_name="fan.x.csv", status="SUCCESS", parameters={"p": json_of(1)})
    branch.steps["fan.x.csv.train.all"] = step_of("fan.x.csv.train.all", "train.all", second=30)
    if hasattr(store, "_list_branch_logs"):
        store.add_branch_log(branch, run_id)
    else:
        run_log.steps["fan"].branches["fan.x.csv"] = branch
    store.put_run_log(run_log)
    return store.get_run_log_by_id(run_id, full=True)


def write_stale(store, run_id):
    """A full log that was read early and put late, beside branches that have gone on."""
    run_log = write(store, run_id)
    branch = store.get_branch_log("fan.a", run_id)
    branch.status = "FAIL"
    branch.steps["fan.a.after"] = step_of("fan.a.after", "after", status="FAIL", second=9)
    store.add_branch_log(branch, run_id)
    store.put_run_log(run_log)
    return store.get_run_log_by_id(run_id, full=True)


def main():
    wanted = json.loads(sys.argv[1])
    store = with_context(STORES[wanted["store"]], wanted["run_id"])(**wanted["config"])
    scene = {"plain": write, "dotted": write_dotted, "stale": write_stale}
    print(scene[wanted["scene"]](store, wanted["run_id"]).model_dump_json())  # noqa: T201


main()
