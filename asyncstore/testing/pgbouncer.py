"""
A real pgbouncer for tests, in transaction mode: the program of the system's package manager.

It has a few connections to the server for any number of clients and gives each transaction whichever is free, so that
two transactions of one client often run on different ones, and what is prepared or set on one is not there on another.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from asyncstore.testing.servers import START_DEADLINE_S, ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncstore.testing.postgres import PostgresServer

__all__ = ["PgBouncer", "is_installed", "pgbouncer_server"]

_POLL_S = 0.02
_STOP_DEADLINE_S = 10.0
_SOCKET_PORT = 6432
_CONFIGURATION = """
[databases]
* = host={host} port={port}

[pgbouncer]
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = {client_limit}
listen_addr = {address}
listen_port = {listen_port}
unix_socket_dir = {folder}
auth_type = {auth_type}
auth_file = {folder}/users.txt
logfile = {folder}/log
server_login_retry = 0.2
server_round_robin = 1
"""


@dataclass
class PgBouncer:
    """A pgbouncer in front of a PostgreSQL server."""

    folder: Path
    """Its configuration, log and Unix socket."""
    port: int
    address: str
    """What clients connect to: an IP address, or the folder of the Unix socket."""
    user: str
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def url_of(self, database_url: str) -> str:
        """Return the URL that leads through pgbouncer to a database of the server, without the password."""
        name = make_url(database_url).database
        if self.address == str(self.folder):
            return f"postgresql://{self.user}@/{name}?host={self.folder}&port={self.port}"
        return f"postgresql://{self.user}@{self.address}:{self.port}/{name}"

    def start(self) -> None:
        """
        Start it, on the address that it had before if it was killed.

        Raises:
            ServerError: it did not start, for instance because somebody else has the port.
        """
        # It refuses to run as root; the one who may reach the server's socket is the server's own user.
        user = pwd.getpwuid(self.folder.stat().st_uid).pw_name
        as_user = ["-u", user] if os.getuid() == 0 else []
        self._process = subprocess.Popen(
            [_executable(), "--quiet", *as_user, str(self.folder / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._answers():
                return
            time.sleep(_POLL_S)
        state = self._process.poll()
        self.kill()
        with contextlib.suppress(OSError):
            raise ServerError(f"pgbouncer did not start ({state}): {(self.folder / 'log').read_text()[-2000:]}")
        raise ServerError(f"pgbouncer did not start ({state}), and wrote no log")

    def kill(self) -> None:
        """End it at once, with all connections, as ``kill -9`` does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        unix = self.address == str(self.folder)
        with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as client:
            client.settimeout(1)
            try:
                client.connect(f"{self.folder}/.s.PGSQL.{self.port}" if unix else (self.address, self.port))
            except OSError:
                return False
            return True


def is_installed() -> bool:
    """Tell whether there is a pgbouncer on this machine."""
    return _find() is not None


@contextlib.contextmanager
def pgbouncer_server(
    postgres: PostgresServer,
    *,
    pool_size: int = 4,
    client_limit: int = 1000,
    user: str = "postgres",
    password: str = "",
) -> Iterator[PgBouncer]:
    """
    Run pgbouncer before ``postgres`` within the ``with`` block; as root it runs as the server's user.

    Args:
        postgres: the server behind.
        pool_size: connections to the server, for each of its databases.
        client_limit: connections of clients; more are refused.
        user: the one role that it lets in, and logs in to the server with.
        password: the role's, which it must give over TCP by SCRAM; without one it comes in by a Unix socket.

    Raises:
        ServerError: it is not installed, or did not start.
    """
    _executable()
    host = str(make_url(postgres.url).query["host"])
    owner = Path(host).stat()
    folder = Path(tempfile.mkdtemp(prefix="asyncstore-pgb-"))
    bouncer = (
        PgBouncer(folder, _free_port(), "127.0.0.1", user)
        if password
        else PgBouncer(folder, _SOCKET_PORT, str(folder), user)
    )
    quoted = password.replace('"', '""')
    (folder / "users.txt").write_text(f'"{user}" "{quoted}"\n')
    (folder / "pgbouncer.ini").write_text(
        _CONFIGURATION.format(
            host=host,
            port=make_url(postgres.url).query.get("port", 5432),
            pool_size=pool_size,
            client_limit=client_limit,
            address="127.0.0.1" if password else "",
            listen_port=bouncer.port,
            folder=folder,
            auth_type="scram-sha-256" if password else "trust",
        )
    )
    if os.getuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)
    try:
        bouncer.start()
        yield bouncer
    finally:
        bouncer.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def _find() -> str | None:
    # Debian puts it where only root looks.
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


def _executable() -> str:
    path = _find()
    if path is None:
        raise ServerError("pgbouncer is not installed: apt-get install pgbouncer")
    return path
