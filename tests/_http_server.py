"""A server of sockets and threads that plays whatever part a test gives it, on plain TCP and on TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import pytest

from asyncstore.aws.credentials import Credentials
from asyncstore.objects._s3._wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "KEYS",
    "Asked",
    "Peer",
    "PlayedServer",
    "make_certificate",
    "nothing_left",
    "ok",
    "serve_all",
    "tls_server",
    "wires_made",
]

KEYS = Credentials("access", "the-secret-key", "the-token")
PATIENCE_S = 30


@dataclass(frozen=True, slots=True)
class Asked:
    """A request."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@contextmanager
def wires_made(ca_bundle: Path | None = None, *, connections: int = 4) -> Iterator[Callable[[str], Wire]]:
    """Give what makes a wire to a URL; all of them are closed with the block."""
    wires: list[Wire] = []

    def make(url: str) -> Wire:
        wires.append(Wire(url, "eu-west-1", ca_bundle, connections=connections))
        return wires[-1]

    yield make
    for wire in wires:
        wire.close()


class Peer:
    """The server's end of a connection."""

    def __init__(self, server: PlayedServer, stream: socket.socket) -> None:
        self._server = server
        self._held = b""
        self.stream = stream

    def say(self, raw: bytes) -> None:
        """Send something."""
        self.stream.sendall(raw)

    def head(self) -> Asked | None:
        """Read a request up to its body, ``None`` at the end."""
        while b"\r\n\r\n" not in self._held:
            if not self._more():
                return None
        raw, _, self._held = self._held.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        asked = Asked(
            method, target, {name.lower(): said for name, said in (line.split(": ", 1) for line in lines)}, b""
        )
        self._server.asked.append(asked)
        return asked

    def read(self, size_bytes: int) -> bytes:
        """Read so many bytes, fewer at the end."""
        while len(self._held) < size_bytes and self._more():
            pass
        found, self._held = self._held[:size_bytes], self._held[size_bytes:]
        return found

    def request(self) -> Asked | None:
        """Read a request, ``None`` at the end."""
        asked = self.head()
        if asked is None:
            return None
        whole = Asked(
            asked.method, asked.target, asked.headers, self.read(int(asked.headers.get("content-length", "0")))
        )
        self._server.asked[self._server.asked.index(asked)] = whole
        return whole

    def close(self) -> None:
        """Close the connection, on TLS without a word."""
        self.stream.close()

    def reset(self) -> None:
        """Reset the connection."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.close()

    def pause(self, seconds: float) -> None:
        """Do nothing for a while, but when the test is over."""
        self._server.over.wait(seconds)

    def stay(self) -> None:
        """Keep the connection open, and read nothing more, until the test is over."""
        self.pause(PATIENCE_S)

    def until_closed(self) -> None:
        """Read until the client has closed the connection."""
        with contextlib.suppress(OSError):
            while self.stream.recv(65536):
                pass

    def _more(self) -> bool:
        found = self.stream.recv(1 << 20)
        self._held += found
        return bool(found)


Play: TypeAlias = "Callable[[Peer], None]"


class PlayedServer:
    """
    Plays for each connection the next of its parts, and the last one for all further ones.

    Attributes:
        asked: all requests.
        connections: how many there were.
        over: set when the test is over.
    """

    def __init__(self, *plays: Play, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._plays = plays
        self._tls = tls
        self._listener = socket.create_server((host, 0), backlog=128)
        self._threads: list[threading.Thread] = []
        self._streams: list[socket.socket] = []
        self._failure: BaseException | None = None
        self._name = "localhost" if tls else host
        self.asked: list[Asked] = []
        self.connections = 0
        self.over = threading.Event()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """What a bucket's URL is."""
        return f"{'https' if self._tls else 'http'}://{self._name}:{self.port}/bucket"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        # Whoever was accepted is known afterwards.
        self._threads[0].join(PATIENCE_S)
        self._listener.close()
        for stream in list(self._streams):
            with contextlib.suppress(OSError):
                # Not what SSLSocket makes of it: its thread would find itself without TLS in the middle of a call.
                socket.socket.shutdown(stream, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the server still waits"
        for stream in self._streams:
            stream.close()
        if self._failure is not None:
            raise self._failure

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._listener.accept()
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                play = self._plays[min(self.connections, len(self._plays) - 1)]
                self.connections += 1
                self._streams.append(stream)
                self._start(lambda stream=stream, play=play: self._play(stream, play))  # type: ignore[misc]

    def _play(self, stream: socket.socket, play: Play) -> None:
        try:
            if self._tls is not None:
                stream = self._tls.wrap_socket(stream, server_side=True)
                self._streams.append(stream)
            play(Peer(self, stream))
        except OSError:
            # The client is gone, or the test is over.
            pass
        except BaseException as error:
            self._failure = self._failure or error
        finally:
            stream.close()


def ok(body: bytes = b"", said: str = "", *, status: int = 200) -> bytes:
    """Return an answer with a body of a known length."""
    lines = f'Content-Length: {len(body)}\r\nLast-Modified: Sat, 21 Nov 2026 00:00:00 GMT\r\nETag: "e"\r\n{said}'
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body


def serve_all(answer: Callable[[Asked], bytes]) -> Play:
    """Return a part that answers each request."""

    def play(peer: Peer) -> None:
        while (asked := peer.request()) is not None:
            peer.say(answer(asked))

    return play


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail if sockets or threads are left that were not there before."""
    sockets, threads = open_sockets(), set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - threads
    assert not open_sockets() - sockets


def open_sockets() -> set[str]:
    """Return the sockets of this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()))
    return {name for name in found if name.startswith("socket:")}


@contextmanager
def refusing_port() -> Iterator[int]:
    """Give a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def deaf_port() -> Iterator[int]:
    """Give a port whose queue is full: whoever connects to it waits."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def make_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Return an authority's certificate, and one of its for localhost with the key."""
    x509 = pytest.importorskip("cryptography.x509")
    hashes = pytest.importorskip("cryptography.hazmat.primitives.hashes")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority", "localhost")]
    now = datetime.now(UTC)
    pems = []
    for number in range(2):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(names[number])
            .issuer_name(names[0])
            .public_key(keys[number].public_key())
            .serial_number(number + 1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
            .sign(keys[0], hashes.SHA256())
        )
        pems.append(folder / f"{number}.pem")
        pems[-1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = folder / "key.pem"
    private.write_bytes(keys[1].private_bytes(encoding, kind, serialization.NoEncryption()))
    return pems[0], pems[1], private


def tls_server(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return what a server for localhost has, and the certificate of who vouches for it."""
    authority, pem, private = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    return context, authority
