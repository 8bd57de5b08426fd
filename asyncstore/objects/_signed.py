"""
Requests to S3 with headers that obstore cannot send, signed by botocore and sent without a client of its.

Such a client takes 0.4 s of CPU to make, for service models that a request spelled out by hand has no use for; this
takes 1 ms a request, and 20 ms more for the first on TLS. Everything here blocks.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from asyncstore.errors import ConfigurationError
from asyncstore.objects._boto import CONNECT_TIMEOUT_S, READ_TIMEOUT_S
from asyncstore.objects._errors import code_in, from_s3_code, no_answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from asyncstore.aws.credentials import Credentials

__all__ = ["Reply", "SignedRequests"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, with a status of success."""

    status: int
    headers: Mapping[str, str]
    """Under names in lower case."""
    body: bytes


class SignedRequests:
    """
    Sends requests about one bucket's objects over a connection that ends with the ``with`` block.

    Args:
        url: the bucket's; the environment says by which proxy it is reached.
        region: the bucket's.
        ca_bundle: CA certificates to trust instead of botocore's own.
    """

    def __init__(self, url: str, region: str, ca_bundle: Path | None) -> None:
        self._url = url
        self._region = region
        self._session = URLLib3Session(
            verify=str(ca_bundle) if ca_bundle else True,
            proxies=get_environ_proxies(self._url),
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            # Headers and body go out in two pieces, and the second would wait 40 ms for the server's word on the first.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._session.close()

    def send(
        self, method: str, key: str, headers: Mapping[str, str], body: bytes, credentials: Credentials, what: str
    ) -> Reply:
        """
        Send one request, once; ``what`` says in errors what was asked and where.

        Raises:
            AsyncStoreError: what S3's answer means, by the table of :mod:`asyncstore.objects._errors`.
            ConfigurationError: no connection can be made from here; botocore and obstore differ in which certificates
                they trust, and in how they read proxies' variables.
        """
        request = AWSRequest(method, f"{self._url}/{quote(key, safe='/~')}", headers=dict(headers), data=body)
        keys = ReadOnlyCredentials(credentials.access_key_id, credentials.secret_access_key, credentials.token)
        S3SigV4Auth(keys, "s3", self._region).add_auth(request)
        try:
            answer = self._session.send(request.prepare())
        except BotoConnectionError as error:
            raise ConfigurationError(f"{what}: no connection can be made: {error}") from error
        except BotoCoreError as error:
            raise no_answer(f"{what}: the connection failed: {error}", sent=True) from error
        if not 200 <= answer.status_code < 300:
            code = code_in(answer.content.decode(errors="replace"))
            raise from_s3_code(code, answer.status_code, what)
        return Reply(
            answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content
        )
