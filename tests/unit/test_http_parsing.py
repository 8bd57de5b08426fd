"""Answers as they come off a socket, whole, in pieces, and broken; the pieces are sent when they are waited for."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncstore.objects._http._bodies import Blocks, Collected
from asyncstore.objects._http._connection import BUFFER_BYTES, READ, WRITE, BrokenError, Connection
from asyncstore.objects._http._origin import Origin
from asyncstore.objects._http._parsing import CHUNKED, UNTIL_CLOSED, Head, MalformedError, body_bytes, parse_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from asyncstore.objects._http._bodies import Sink

MOST_BYTES = 1024 * 1024
RESET = object()
"""Instead of a piece: the connection is reset; the end of the pieces closes it."""

PATIENCE_S = 30


class Talk:
    """One connection, both of whose ends are in this thread."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.origin = Origin("http", "127.0.0.1", port, f"127.0.0.1:{port}")
        self.connection = Connection(self.origin, lambda host, port: [(socket.AF_INET, (host, port))])
        self._server: socket.socket | None = None
        self.body = b""

    def exchange(
        self,
        pieces: Sequence[bytes | object],
        *,
        method: str = "GET",
        sink_of: Callable[[Head, int], Sink] | None = None,
        closes: bool = True,
    ) -> Head:
        """Ask, and answer with these pieces, each when the ones before it have been taken."""
        collected: list[Collected] = []

        def collect(_: Head, size_bytes: int) -> Sink:
            collected.append(Collected(size_bytes, MOST_BYTES))
            return collected[-1]

        waiting = iter(pieces)
        wait = self.connection.exchange(method, b"GET / HTTP/1.1\r\n\r\n", b"", sink_of or collect)
        try:
            with contextlib.closing(wait):
                connection = next(wait)
                while True:
                    self._serve(connection, waiting, closes)
                    connection = next(wait)
        except StopIteration as ended:
            self.body = bytes(collected[-1].body) if collected else b""
            head: Head = ended.value
            return head

    def _serve(self, connection: Connection, waiting: Iterator[bytes | object], closes: bool) -> None:
        if connection.waits_for == WRITE:
            _until_ready(connection, WRITE)
            return
        if _is_ready(connection, READ, 0):
            return
        if self._server is None or self._server.fileno() < 0:
            self._server, _ = self._listener.accept()
            self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Closing what has not read all that came is a reset.
        with contextlib.suppress(BlockingIOError):
            self._server.recv(BUFFER_BYTES, socket.MSG_DONTWAIT)
        piece = next(waiting, None)
        if isinstance(piece, bytes):
            self._server.sendall(piece)
        elif piece is RESET:
            self._server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._server.close()
        elif closes:
            self._server.close()
        else:
            raise AssertionError("it waits for more than there is")
        _until_ready(connection, READ)

    def close(self) -> None:
        self.connection.close()
        self._listener.close()
        if self._server is not None:
            self._server.close()


def _is_ready(connection: Connection, what: int, patience_s: float) -> bool:
    poller = select.poll()
    poller.register(connection.fileno(), what)
    return bool(poller.poll(patience_s * 1000))


def _until_ready(connection: Connection, what: int) -> None:
    assert _is_ready(connection, what, PATIENCE_S)


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    talk.close()


def answer(pieces: Sequence[bytes | object], *, method: str = "GET", closes: bool = True) -> tuple[Head, bytes, bool]:
    """Return head, body, and whether the connection is kept."""
    talk = Talk()
    try:
        head = talk.exchange(pieces, method=method, closes=closes)
        return head, talk.body, not talk.connection.closed
    finally:
        talk.close()


# Heads.


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\n folded: 1",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n 2",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n\t: 2",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\n: nothing",
        b"HTTP/1.1 200 OK\r\nA : 1",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1",
        b"HTTP/1.1 200 OK\r\nA: 1\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nA: 1\rContent-Length: 1",
        b"HTTP/1.1 200 OK\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nA: 1\x00",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1 20",
        b"HTTP/1.1 \xb2\xb2\xb2 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1",
        b"HTTP/2 200",
        b"HTTP/1.10 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"SSH-2.0-OpenSSH_9.9",
        b"<html>",
        b"",
    ],
)
def test_a_head_that_is_none(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_head(raw)


@pytest.mark.parametrize(
    ("raw", "headers", "lasting"),
    [
        (b"HTTP/1.1 200 OK\r\nA: 1", {"a": "1"}, True),
        (b"HTTP/1.1 200\r\nA:1", {"a": "1"}, True),
        (b"HTTP/1.1 200 \r\nA:  1 \t ", {"a": "1"}, True),
        (b"HTTP/1.1 200 OK\r\nA:", {"a": ""}, True),
        (b"HTTP/1.1 200 OK\r\nA: 1:2", {"a": "1:2"}, True),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\na: 2", {"a": "1, 2"}, True),
        (b"HTTP/1.1 200 OK\r\nA: a  b\tc", {"a": "a  b\tc"}, True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close", {"connection": "Close"}, False),
        (b"HTTP/1.1 200 OK\r\nConnection: x, close", {"connection": "x, close"}, False),
        (b"HTTP/1.0 200 OK", {}, False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive", {"connection": "Keep-Alive"}, True),
    ],
)
def test_a_head(raw: bytes, headers: dict[str, str], lasting: bool) -> None:
    assert parse_head(raw) == Head(200, headers, lasting)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(b"HTTP/1.1 200 OK\r\n".__add__))
def test_a_head_is_read_or_refused(raw: bytes) -> None:
    try:
        head = parse_head(raw)
    except MalformedError:
        return
    assert 100 <= head.status <= 999 or raw[9:10] == b"0"
    for name, value in head.headers.items():
        assert name == name.lower().strip() != ""
        assert not {"\r", "\n", "\0"} & {*name, *value}


# Where bodies end.


@pytest.mark.parametrize(
    ("method", "raw", "expected"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5", 5),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0", 0),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 007", 7),
        ("GET", b"HTTP/1.1 200 OK", UNTIL_CLOSED),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked", CHUNKED),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", CHUNKED),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5", 0),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", 0),
        ("HEAD", b"HTTP/1.1 404 Not Found", 0),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5", 0),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5", 0),
        ("DELETE", b"HTTP/1.1 204 No Content", 0),
    ],
)
def test_where_a_body_ends(method: str, raw: bytes, expected: int) -> None:
    assert body_bytes(method, parse_head(raw)) == expected


@pytest.mark.parametrize(
    "said",
    [
        b"Content-Length: -1",
        b"Content-Length: +5",
        b"Content-Length: 5, 5",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length:",
        b"Content-Length: 5 5",
        b"Content-Length: 0x5",
        b"Content-Length: 5.0",
        b"Content-Length: 1_0",
        b"Content-Length: \xb2",
        b"Content-Length: five",
        b"Content-Length: " + b"9" * 30,
        b"Content-Length: " + b"9" * 6000,
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding: xchunked\r\nContent-Length: 5",
    ],
)
def test_a_body_whose_end_is_not_clear(said: bytes) -> None:
    with pytest.raises(MalformedError):
        body_bytes("GET", parse_head(b"HTTP/1.1 200 OK\r\n" + said))


def test_a_length_beside_chunks_does_not_count_and_the_connection_is_not_trusted_any_more() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    head, body, kept = answer([raw])
    assert (body, kept) == (b"ab", False)
    assert "content-length" not in head.headers


# Answers in pieces.

WHOLE = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello": (200, b"hello", True),
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": (200, b"", True),
    b"HTTP/1.1 204 No Content\r\n\r\n": (204, b"", True),
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n": (304, b"", True),
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello": (200, b"hello", False),
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello": (200, b"hello", True),
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello": (200, b"hello", False),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n04\r\nello\r\n0\r\n\r\n": (200, b"hello", True),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b;c\r\nhello\r\n000;x\r\n\r\n": (200, b"hello", True),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\nA: 1\r\nB: 2\r\n\r\n": (
        200,
        b"hello",
        True,
    ),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0A\r\nhello\r\nyou\r\n0\r\n\r\n": (
        200,
        b"hello\r\nyou",
        True,
    ),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": (200, b"", True),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi": (200, b"hi", True),
    b"HTTP/1.1 102 P\r\nA: 1\r\n\r\nHTTP/1.1 103 H\r\n\r\nHTTP/1.1 403 F\r\nContent-Length: 1\r\n\r\nx": (
        403,
        b"x",
        True,
    ),
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end": (200, b"until the end", False),
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nuntil the end": (200, b"until the end", False),
    b"HTTP/1.1 200 OK\r\n\r\n": (200, b"", False),
}
END = b"0\r\n\r\n"


@pytest.mark.parametrize("raw", WHOLE, ids=range(len(WHOLE)))
def test_an_answer_in_single_bytes(raw: bytes) -> None:
    status, body, lasting = WHOLE[raw]
    head, found, kept = answer([raw[at : at + 1] for at in range(len(raw))])
    assert (head.status, found, kept) == (status, body, lasting)


@given(st.sampled_from(sorted(WHOLE)), st.lists(st.integers(1, 150)))
def test_an_answer_in_any_pieces(raw: bytes, cuts: list[int]) -> None:
    at = [0, *sorted({cut for cut in cuts if cut < len(raw)}), len(raw)]
    status, body, lasting = WHOLE[raw]
    head, found, kept = answer([raw[start:end] for start, end in pairwise(at)])
    assert (head.status, found, kept) == (status, body, lasting)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), st.integers(1, 40))
@example([bytes(3 * BUFFER_BYTES), b"x"], 7919)
def test_chunks_come_together(chunks: list[bytes], step: int) -> None:
    raw = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + END
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + raw
    _, found, kept = answer([raw[at : at + step] for at in range(0, len(raw), step)], closes=False)
    assert (found, kept) == (b"".join(chunks), True)


@pytest.mark.parametrize("raw", [raw for raw, (_, body, _) in WHOLE.items() if b"Length" in raw or b"chunked" in raw])
def test_an_answer_that_is_cut_off_is_none(raw: bytes) -> None:
    for at in range(len(raw)):
        begun = [raw[:at]] if at else []
        for ends in ([], [RESET]):
            with pytest.raises(BrokenError):
                answer([*begun, *ends])


def test_an_answer_until_the_end_that_is_reset_is_not_whole() -> None:
    with pytest.raises(BrokenError):
        answer([b"HTTP/1.1 200 OK\r\n\r\nuntil", RESET])


@pytest.mark.parametrize("size_bytes", [1, 10, 25])
@pytest.mark.parametrize("framing", ["length", "chunks", "until closed"])
def test_all_of_a_body_is_handed_on_in_blocks(talk: Talk, framing: str, size_bytes: int) -> None:
    body = bytes(range(size_bytes))
    said, raw = {
        "length": (b"Content-Length: %d\r\n" % size_bytes, body),
        "chunks": (b"Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n" % (size_bytes, body) + END),
        "until closed": (b"", body),
    }[framing]
    blocks: list[bytes] = []
    talk.exchange(
        [b"HTTP/1.1 200 OK\r\n" + said + b"\r\n" + raw],
        sink_of=lambda _, __: Blocks(lambda block: blocks.append(bytes(block)), 10),
    )
    assert b"".join(blocks) == body
    assert all(len(block) == 10 for block in blocks[:-1])


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"x",
        b"-1",
        b"+1",
        b"0x1",
        b"1_0",
        b"1 0",
        b"1\x00",
        b"\xb2",
        b";a=b",
        b" ",
        b"1,1",
        b"f" * 17,
        b"0" * 100 + b"-",
    ],
)
def test_a_chunk_without_a_size(said: bytes) -> None:
    with pytest.raises(MalformedError):
        answer([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + said + b"\r\na\r\n" + END])


@pytest.mark.parametrize("raw", [b"1\r\nab\r\n", b"2\r\na\r\n0\r\n", b"1\r\na0\r\n\r\n", b"1\r\na\n0\r\n\r\n"])
def test_a_chunk_of_another_size_than_it_says(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        answer([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + raw + END])


# What a hostile server may do.


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nA: " + bytes(BUFFER_BYTES).replace(b"\0", b"x"),
        b"HTTP/1.1 200 OK\r\n" + b"A: 1\r\n" * (BUFFER_BYTES // 6),
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n" + b"x" * BUFFER_BYTES,
        b"x" * BUFFER_BYTES,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * (BUFFER_BYTES + 1),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"x" * (BUFFER_BYTES + 1),
    ],
    ids=["value", "headers", "line feeds", "no head", "chunk extension", "trailer"],
)
def test_lines_without_end(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        answer([raw], closes=False)


@pytest.mark.parametrize("size", [BUFFER_BYTES - 4, BUFFER_BYTES - 5])
def test_a_head_that_just_fits(size: int) -> None:
    first = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: "
    head, _, kept = answer([first + b"x" * (size - len(first)), b"\r\n\r\n"], closes=False)
    assert len(head.headers["a"]) == size - len(first)
    assert kept


@pytest.mark.parametrize(
    ("begins", "again"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: 1\r\n" * 1000),
        (b"HTTP/1.1 200 OK\r\n\r\n", bytes(65536)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(65536) + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", bytes(65536)),
    ],
    ids=["interim answers", "another protocol", "trailers", "until closed", "chunks", "length"],
)
def test_answers_without_end(begins: bytes, again: bytes) -> None:
    with pytest.raises(MalformedError):
        answer([begins + again, *[again] * 200] if again else [begins], closes=False)


# One connection after another request.


def test_the_surplus_of_an_answer_is_never_the_next_one(talk: Talk) -> None:
    first, surplus = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"
    talk.exchange([first + surplus])
    assert talk.body == b"a"
    assert talk.connection.closed


def test_nor_is_it_where_it_comes_with_the_end_of_the_body(talk: Talk) -> None:
    first, surplus = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"
    talk.exchange([first, b"aa" + surplus])
    assert talk.body == b"aa"
    assert talk.connection.closed


def test_nor_is_it_where_it_follows_a_head(talk: Talk) -> None:
    talk.exchange([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", b"b"], method="HEAD")
    assert not talk.connection.closed
    assert talk.connection.idle()
    assert talk._server is not None
    talk._server.sendall(b"b")
    _until_ready(talk.connection, READ)
    assert not talk.connection.idle()


@given(st.lists(st.sampled_from(sorted(raw for raw, (_, _, lasting) in WHOLE.items() if lasting)), max_size=5))
def test_answers_follow_each_other(raws: list[bytes]) -> None:
    talk = Talk()
    try:
        for raw in raws:
            status, body, _ = WHOLE[raw]
            assert talk.exchange([raw[:20], raw[20:]], closes=False).status == status
            assert talk.body == body
            assert talk.connection.idle()
    finally:
        talk.close()
