"""The stub's own addresses, below ``/_stub/``, for tests in another process."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from asyncstore.testing.s3_stub._faults import Fault, FaultPlan
from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request, S3Error
from asyncstore.testing.s3_stub._policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncstore.testing.s3_stub.server import S3Stub

__all__ = ["CONTROL_PREFIX", "changed", "control"]

CONTROL_PREFIX = "/_stub/"

_KNOWN = "requests, bytes_in, bytes_out, state, reset, restore, config and faults"

_FAULTS = TypeAdapter(list[Fault])
_BEHAVIOUR = TypeAdapter(Behaviour)


def control(stub: S3Stub, request: Request) -> Answer:
    """Tell or change what the stub does."""
    try:
        return _json(
            _controlled(stub, f"{request.method} {request.path.removeprefix(CONTROL_PREFIX)}", bytes(request.body))
        )
    except (ValidationError, TypeError, ValueError) as error:
        return _json({"error": str(error)}, 400)
    except S3Error as error:
        return error.answer


def _controlled(stub: S3Stub, asked: str, body: bytes) -> object:
    match asked:
        case "GET requests":
            return dict(stub.requests)
        case "GET bytes_in":
            return dict(stub.bytes_in)
        case "GET bytes_out":
            return dict(stub.bytes_out)
        case "GET state":
            return {
                "log": list(stub.log),
                "max_in_flight": stub.max_in_flight,
                "connections": stub.connections,
                "throttled": stub.throttled,
            }
        case "POST reset":
            stub.reset()
            return {}
        case "POST restore":
            stub.restore()
            return {}
        case "POST config":
            stub.behaviour = changed(stub.behaviour, json.loads(body))
            return asdict(stub.behaviour)
        case "GET config":
            return asdict(stub.behaviour)
        case "POST faults":
            # First by name, for pydantic passes over fields that it does not know.
            named = [asdict(Fault(**rule)) for rule in json.loads(body)]
            stub.plan = FaultPlan(_FAULTS.validate_python(named))
            return [asdict(fault) for fault in stub.plan.faults]
        case "GET faults":
            return [asdict(fault) for fault in stub.plan.faults]
    raise S3Error(404, "NoSuchControl", f"The stub knows only {_KNOWN}")


def changed(behaviour: Behaviour, fields: Mapping[str, Any]) -> Behaviour:
    """
    Return it with some fields changed.

    Raises:
        TypeError: there is no such field.
        ValidationError: a value is of the wrong kind.
        ValueError: a policy is none, or holds what is not understood here.
    """
    found = _BEHAVIOUR.validate_python(asdict(replace(behaviour, **fields)))
    for document in found.policies.values():
        Policy.of(document)
    return found


def _json(content: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})
