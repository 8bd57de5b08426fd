"""
Single requests about a bucket whose refusals are answers too: status, headers, and the words of the server.

Stores turn what they are answered into errors, and leave away what here is looked for: the region that a refusal names,
the server's time, the action that was denied. Keys, clock, certificates and proxies are those of the stores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session

from asyncstore._core.retry import RetryPolicy, retrying
from asyncstore._core.threads import in_thread
from asyncstore.aws._endpoints import refuse_link_local_name
from asyncstore.aws.clock import parse_http_date
from asyncstore.errors import UnavailableError
from asyncstore.objects._errors import code_in, from_s3_code, no_answer, transport_reason
from asyncstore.objects._http._origin import proxy_for
from asyncstore.objects._http._signing import Signer
from asyncstore.objects._s3._bucket import bucket_url, read_ca_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from asyncstore.aws.credentials import CredentialProvider, Credentials
    from asyncstore.aws.settings import AwsSettings

__all__ = ["RETRY", "Answer", "Refusal", "Requests", "refusal_in"]

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 8
"""Also how long Ctrl-C may have to wait for a server that went silent."""
CONNECTIONS = 8

RETRY = RetryPolicy(attempts=3, deadline_s=10.0)
"""A check is an answer to somebody who waits."""

_ACTION = re.compile(r"not authorized to perform: ([a-z0-9-]+:\w+)")
_FORBIDDING = re.compile(r"\bexplicit deny(?: in (an? [A-Za-z -]*?(?:policy|boundary)))?")
_MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
_BUSY = {429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    headers: Mapping[str, str]
    """Under names in lower case."""
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the request was carried out."""
        return 200 <= self.status < 300 and not self.code

    @property
    def denied(self) -> bool:
        """Whether a permission is missing."""
        return self.status == 403 or self.code in {"AccessDenied", "AllAccessDisabled"}

    @property
    def code(self) -> str:
        """S3's name of the error, empty if it says none."""
        return code_in(self.text) if b"<Error>" in self.body else ""

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode(errors="replace")

    @property
    def refusal(self) -> Refusal:
        """Why it was denied."""
        return refusal_in(self.text)

    def said(self, name: str) -> str:
        """Return the text of the first element of that name, empty if there is none."""
        found = re.search(rf"<{name}>([^<]*)</{name}>", self.text)
        return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server says of why something is denied; AWS does, to requests from within the account."""

    action: str = ""
    """The IAM action, empty if it names none."""
    forbidden_by: str = ""
    """The kind of policy whose statement denies it, against which no grant helps; empty if it tells of none."""


def refusal_in(text: str) -> Refusal:
    """Return why something was denied, by the body of the answer."""
    message = _MESSAGE.search(text)
    if message is None:
        return Refusal()
    action, forbidding = _ACTION.search(message[1]), _FORBIDDING.search(message[1])
    return Refusal(action[1] if action else "", (forbidding[1] or "a policy") if forbidding else "")


class Requests:
    """
    Sends requests about one bucket.

    Args:
        bucket: its name.
        settings: how to reach it.
        provider: whose keys sign.
    """

    def __init__(self, bucket: str, settings: AwsSettings, provider: CredentialProvider) -> None:
        self._url = bucket_url(settings, bucket)
        self._bucket = bucket
        self._provider = provider
        self._signer = Signer(urlsplit(self._url).netloc, settings.region, now_s=provider.clock.now_s)
        self._settings = settings
        self._session: URLLib3Session | None = None

    async def __aenter__(self) -> Self:
        # It reads certificates.
        self._session = await in_thread(self._connect)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    async def send(
        self,
        method: str,
        key: str = "",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        signed: bool = True,
        answered: Callable[[Answer], None] | None = None,
    ) -> Answer:
        """
        Return the answer to a request.

        ``answered`` is called with it in the thread that has it first: also if the caller is cancelled meanwhile.

        Raises:
            UnavailableError: none came, or the server is in trouble.
        """
        keys = await self._provider.get() if signed else None

        def ask() -> Answer:
            answer = self._exchange(method, key, dict(query or {}), dict(headers or {}), body, keys)
            if answered is not None:
                answered(answer)
            return answer

        return await retrying(lambda: in_thread(ask), RETRY)

    def learn_time(self, answer: Answer) -> float | None:
        """Return how many seconds the server's clock is ahead of ours, ``None`` if it does not say, and sign by it."""
        server_s = parse_http_date(answer.headers.get("date", ""))
        if server_s is None:
            return None
        clock = self._provider.clock
        clock.learn(server_s)
        return server_s - (clock.now_s() - clock.skew_s)

    def _connect(self) -> URLLib3Session:
        settings = self._settings
        if settings.endpoint and not settings.allow_link_local:
            refuse_link_local_name(settings.endpoint)
        # One that cannot be read is told as the stores tell it.
        read_ca_bundle(settings)
        proxy = proxy_for(self._url)
        return URLLib3Session(
            verify=str(settings.ca_bundle) if settings.ca_bundle else True,
            proxies={urlsplit(self._url).scheme: proxy} if proxy else {},
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            max_pool_connections=CONNECTIONS,
        )

    def _exchange(
        self,
        method: str,
        key: str,
        query: dict[str, str],
        headers: dict[str, str],
        body: bytes,
        keys: Credentials | None,
    ) -> Answer:
        at = f" at {self._settings.endpoint}" if self._settings.endpoint else ""
        what = f"{method} s3://{self._bucket}/{key}{at}"
        base = urlsplit(self._url)
        path = f"{base.path}/{quote(key, safe='/~')}" if key else base.path or "/"
        pairs = sorted((quote(name, safe="-_.~"), quote(said, safe="-_.~")) for name, said in query.items())
        asked = "&".join(f"{name}={said}" for name, said in pairs)
        named = {name.lower(): said for name, said in headers.items()}
        if keys is not None:
            named = self._signer.signed(method, path, asked, named, sha256(body).hexdigest(), keys)
        url = f"{base.scheme}://{base.netloc}{path}{'?' if asked else ''}{asked}"
        assert self._session is not None, "enter it first"
        try:
            found = self._session.send(AWSRequest(method, url, named, body).prepare())
            answer = Answer(
                found.status_code, {name.lower(): said for name, said in found.headers.items()}, found.content
            )
        except (BotoConnectionError, HTTPClientError) as error:
            reason = transport_reason(str(error.kwargs.get("error", error)))
            raise no_answer(f"{what}: {reason}", sent=True) from error
        if answer.status in _BUSY:
            raise _busy(answer, what)
        return answer


def _busy(answer: Answer, what: str) -> UnavailableError:
    found = from_s3_code(answer.code, answer.status, what)
    return found if isinstance(found, UnavailableError) else UnavailableError(str(found))
