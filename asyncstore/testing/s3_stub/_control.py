"""The stub's own addresses, below ``/_stub/``, for tests in another process."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from asyncstore.testing.s3_stub._faults import Fault, FaultPlan
from asyncstore.testing.s3_stub._messages import Answer, Behaviour, Request, S3Error

if TYPE_CHECKING:
    from asyncstore.testing.s3_stub.server import S3Stub

__all__ = ["CONTROL_PREFIX", "control"]

CONTROL_PREFIX = "/_stub/"

_FAULTS = TypeAdapter(list[Fault])
_BEHAVIOUR = TypeAdapter(Behaviour)


def control(stub: S3Stub, request: Request) -> Answer:
    """Tell or change what the stub does."""
    try:
        return _json(_controlled(stub, f"{request.method} {request.path.removeprefix(CONTROL_PREFIX)}", request.body))
    except (ValidationError, TypeError, ValueError) as error:
        return _json({"error": str(error)}, 400)
    except S3Error as error:
        return error.answer


def _controlled(stub: S3Stub, asked: str, body: bytes) -> object:
    match asked:
        case "GET requests":
            return dict(stub.requests)
        case "GET state":
            return {"log": list(stub.log), "max_in_flight": stub.max_in_flight, "connections": stub.connections}
        case "POST reset":
            stub.reset()
            return {}
        case "POST restore":
            stub.restore()
            return {}
        case "POST config":
            changed = replace(stub.behaviour, **json.loads(body))
            stub.behaviour = _BEHAVIOUR.validate_python(asdict(changed))
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
    raise S3Error(404, "NoSuchControl", "The stub knows requests, state, reset, restore, config and faults")


def _json(content: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})
