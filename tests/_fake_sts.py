"""An STS that gives sessions as short as a test wants them, fails when told to, and tells how it was asked."""

from __future__ import annotations

import re
import threading
import time
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from asyncstore.testing.s3_stub._messages import Answer, S3Error
from tests._fake_server import FakeHandler, FakeServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncstore.testing.s3_stub._messages import Request

__all__ = ["CANARY", "ROLE", "FakeSts"]

ROLE = "arn:aws:iam::123456789012:role/writer"

CANARY = "canary-4f1c9a"
"""Part of every secret that this STS gives."""

MOST_SKEW_S = 900

_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d{8}/([^/]+)/sts/")


class FakeSts(FakeServer):
    """
    Gives sessions, and counts them; see :class:`FakeServer`.

    Attributes:
        session_s: how long sessions last.
        latency_s: how long an answer takes.
        skew_s: how far its clock, and that of the servers that ask it for keys, is ahead of this machine's.
        refuses: given how many calls there were before, returns an HTTP status and a code to refuse this one with.
        calls: the parameters of each call, with who asked and in which region, as ``asker``, ``token``, ``region``.
        granted: how many sessions were given.
        most_at_once: how many calls were being answered at once.
    """

    def __init__(self, session_s: float = 900.0) -> None:
        self.session_s = session_s
        self.latency_s = 0.0
        self.skew_s = 0.0
        self.refuses: Callable[[int], tuple[int, str] | None] = lambda _: None
        self.calls: list[dict[str, str]] = []
        self.granted = 0
        self.most_at_once = 0
        self._expiries: dict[str, float] = {}
        self._at_once = 0
        self._lock = threading.Lock()

    def handler(self) -> type[FakeHandler]:
        """Return what answers; see :class:`FakeServer`."""
        sts = self

        class Handler(FakeHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                status, text = sts.answer(
                    {name: values[0] for name, values in parse_qs(body).items()},
                    {name.lower(): value for name, value in self.headers.items()},
                )
                self.say(status, text, "text/xml")

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(timestamp or sts.now_s(), usegmt=True)

        return Handler

    def now_s(self) -> float:
        """Return the time by its clock."""
        return time.time() + self.skew_s

    def accepts(self, access_key: str) -> bool:
        """Tell whether a session's key is valid now."""
        return self._expiries.get(access_key, 0.0) > self.now_s()

    def revoke(self) -> None:
        """Let no session be valid any more."""
        with self._lock:
            self._expiries.clear()

    def refusal_of(self, request: Request) -> Answer | None:
        """Return what S3 answers to a request whose time is wrong, or whose keys are no session's."""
        sent_s = datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if abs(sent_s - self.now_s()) > MOST_SKEW_S:
            said = datetime.fromtimestamp(int(self.now_s()), UTC).isoformat().replace("+00:00", "Z")
            body = f"<Error><Code>RequestTimeTooSkewed</Code><ServerTime>{said}</ServerTime></Error>"
            return Answer(403, body.encode(), {"Date": formatdate(self.now_s(), usegmt=True)})
        return None if self.accepts(request.access_key) else S3Error(400, "ExpiredToken").answer

    def answer(self, asked: dict[str, str], headers: dict[str, str]) -> tuple[int, str]:
        """Answer a call, in a thread of its own."""
        found = _CREDENTIAL.search(headers.get("authorization", ""))
        asker, region = found.groups() if found else ("", "")
        date, token = headers.get("x-amz-date", ""), headers.get("x-amz-security-token", "")
        with self._lock:
            count = len(self.calls)
            self.calls.append({**asked, "asker": asker, "region": region, "token": token})
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self.latency_s)
        with self._lock:
            self._at_once -= 1
            if (refusal := self.refuses(count)) is not None:
                return refusal[0], _error(refusal[1])
            if date and abs(_stamp_s(date) - self.now_s()) > MOST_SKEW_S:
                return 403, _error("SignatureDoesNotMatch")
            self.granted += 1
            key = f"ASIA{self.granted:016}"
            expiry_s = self.now_s() + self.session_s
            self._expiries[key] = expiry_s
            return 200, _granted(asked["Action"], key, datetime.fromtimestamp(expiry_s, UTC).isoformat())


def _stamp_s(date: str) -> float:
    return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _error(code: str) -> str:
    return f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"


def _granted(action: str, key: str, expiration: str) -> str:
    return (
        f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
        f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>secret-{CANARY}-{key}</SecretAccessKey>"
        f"<SessionToken>token-{CANARY}-{key}</SessionToken><Expiration>{expiration}</Expiration>"
        f"</Credentials></{action}Result></{action}Response>"
    )
