"""The S3 stub speaks HTTP/1.1 as a server must, byte by byte: ranges, pipelining, chunks, waiting clients."""

from __future__ import annotations

import asyncio

import pytest

from asyncstore.testing.s3_stub import S3Stub


async def exchange(url: str, *pieces: bytes) -> bytes:
    """Send the pieces, each when the one before was taken, and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await reader.read(-1)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("wanted", "status", "expected"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=4-", 206, b"456789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-30", 206, b"0123456789"),
        ("bytes=8-100", 206, b"89"),
        ("bytes=5-4", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
        ("bytes=10-", 416, b"InvalidRange"),
        ("bytes=-0", 416, b"InvalidRange"),
    ],
)
async def test_ranges(wanted: str, status: int, expected: bytes) -> None:
    async with S3Stub() as stub:
        stub.make_bucket("b")
        put = b"PUT /b/k HTTP/1.1\r\nContent-Length: 10\r\n\r\n0123456789"
        get = f"GET /b/k HTTP/1.1\r\nRange: {wanted}\r\nConnection: close\r\n\r\n".encode()
        _, _, answer = (await exchange(stub.url, put + get)).partition(b"\r\n\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert expected in answer.partition(b"\r\n\r\n")[2]


async def test_pipelined_requests_are_answered_in_order_with_and_without_latency() -> None:
    async with S3Stub() as stub:
        stub.make_bucket("b")
        for stub.behaviour.latency_s in (0.0, 0.002):
            puts = [f"PUT /b/{n} HTTP/1.1\r\nContent-Length: 1\r\n\r\n{n}".encode() for n in range(9)]
            gets = [f"GET /b/{n} HTTP/1.1\r\n\r\n".encode() for n in range(9)]
            last = b"HEAD /b/0 HTTP/1.1\r\nConnection: close\r\n\r\n"
            answers = (await exchange(stub.url, b"".join([*puts, *gets, last]))).split(b"HTTP/1.1 200 OK\r\n")
            bodies = [answer.partition(b"\r\n\r\n")[2] for answer in answers[10:]]
            assert bodies == [str(n).encode() for n in range(9)] + [b""]


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_bodies_in_chunks_in_any_pieces(size: int) -> None:
    chunked = b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nx-amz-checksum-crc32: x\r\n\r\n"
    both = b"Content-Length: %d\r\nContent-Encoding: aws-chunked\r\nx-amz-decoded-content-length: 13\r\n" % len(chunked)
    async with S3Stub() as stub:
        stub.make_bucket("b")
        wire = b"PUT /b/1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n" + chunked
        wire += b"PUT /b/2 HTTP/1.1\r\n" + both + b"\r\n" + chunked
        wire += b"GET /b/1 HTTP/1.0\r\n\r\n"
        said = await exchange(stub.url, *(wire[at : at + size] for at in range(0, len(wire), size)))
        assert said.endswith(b"abc0123456789")
        assert stub.storage.bucket("b").get("2").body == b"abc0123456789"
        assert "Content-Encoding" not in stub.storage.bucket("b").get("2").headers


async def test_a_client_that_waits_to_be_told_to_continue() -> None:
    async with S3Stub() as stub:
        stub.make_bucket("b")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(stub.url.rpartition(":")[2]))
        writer.write(b"PUT /b/k HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
        await writer.wait_closed()


async def test_what_is_not_http_is_refused() -> None:
    async with S3Stub() as stub:
        for nonsense in (b"hello\r\n\r\n", b"PUT /b/k HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"x" * 70_000):
            assert (await exchange(stub.url, nonsense)).startswith(b"HTTP/1.1 400 ")
