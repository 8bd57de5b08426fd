"""The stub as a process of its own, so that it shares neither loop nor interpreter lock with what is tested."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from asyncstore.testing.s3_stub._control import CONTROL_PREFIX
from asyncstore.testing.servers import START_DEADLINE_S, S3Server, ServerError, _running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncstore.testing.s3_stub._faults import Fault

__all__ = ["StubServer", "s3_stub_server"]


@dataclass(frozen=True, slots=True)
class StubServer(S3Server):
    """
    A running stub; each method is one blocking request to it, which it does not count.

    Raises:
        ServerError: the stub refused, as each method may say.
    """

    @property
    def requests(self) -> Counter[str]:
        """How many requests came as a whole, by S3's names for them."""
        return Counter(self._ask("GET", "requests"))

    @property
    def bytes_in(self) -> Counter[str]:
        """How many bytes of bodies came, by the requests' names; also of requests that broke off."""
        return Counter(self._ask("GET", "bytes_in"))

    @property
    def bytes_out(self) -> Counter[str]:
        """How many bytes of bodies went out, by the requests' names."""
        return Counter(self._ask("GET", "bytes_out"))

    @property
    def throttled(self) -> int:
        """How many requests were beyond ``requests_per_s`` or ``in_flight_limit``."""
        return int(self._ask("GET", "state")["throttled"])

    @property
    def connections(self) -> int:
        """How many connections were made, those for these questions included."""
        return int(self._ask("GET", "state")["connections"])

    @property
    def log(self) -> list[str]:
        """The method and path of the last 10,000 requests."""
        return list(self._ask("GET", "state")["log"])

    @property
    def max_in_flight(self) -> int:
        """How many requests were being answered at once."""
        return int(self._ask("GET", "state")["max_in_flight"])

    def configure(self, **changes: Any) -> None:
        """Change fields of its :class:`Behaviour`, such as ``latency_s``."""
        self._ask("POST", "config", changes)

    def set_faults(self, faults: Sequence[Fault]) -> None:
        """Replace the rules for what goes wrong, and begin their counting anew."""
        self._ask("POST", "faults", [asdict(fault) for fault in faults])

    def reset(self) -> None:
        """Count anew."""
        self._ask("POST", "reset")

    def restore(self) -> None:
        """Forget how to behave, faults and what was counted; buckets and objects stay."""
        self._ask("POST", "restore")

    def _ask(self, method: str, what: str, content: object = None) -> Any:
        connection = http.client.HTTPConnection(urlsplit(self.endpoint_url).netloc, timeout=START_DEADLINE_S)
        with contextlib.closing(connection):
            connection.request(method, CONTROL_PREFIX + what, json.dumps(content))
            answer = connection.getresponse()
            text = answer.read().decode()
        if answer.status != http.HTTPStatus.OK:
            raise ServerError(f"the stub refused {method} {what}: {text}")
        return json.loads(text)


@contextlib.contextmanager
def s3_stub_server(*, uvloop: bool = True) -> Iterator[StubServer]:
    """
    Run the stub as a process of its own within the ``with`` block.

    Args:
        uvloop: use that event loop if it is installed.

    Raises:
        ServerError: it did not start.
    """
    options = [] if uvloop else ["--no-uvloop"]
    with _running([sys.executable, "-m", "asyncstore.testing.s3_stub", "--port", "0", *options]) as url:
        server = StubServer(url)
        # Of the request by which it was found to be up.
        server.reset()
        yield server
