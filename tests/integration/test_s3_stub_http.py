"""The S3 stub speaks HTTP/1.1 as a server must, byte by byte: ranges, pipelining, chunks, waiting clients."""

from __future__ import annotations

import asyncio
import base64
import os
import zlib

import pytest

from asyncstore.testing.s3_stub import S3Stub

CRC32 = base64.b64encode(zlib.crc32(b"abc0123456789").to_bytes(4, "big"))


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
    chunked = b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nx-amz-checksum-crc32: %s\r\n\r\n" % CRC32
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
        assert stub.bytes_in == {"PutObject": 2 * len(chunked)}


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"3\r\nabcd\r\n0\r\n\r\n", b"IncompleteBody"),
        (b"x\r\nabc\r\n0\r\n\r\n", b"IncompleteBody"),
        (b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32: AAAAAA==\r\n\r\n", b"BadDigest"),
        (b"4\r\nabcd\r\n0\r\n\r\n", b"IncompleteBody"),
        (b"3\r\nabc\r\n", b"IncompleteBody"),
    ],
)
async def test_chunks_that_are_wrong(wrong: bytes, code: bytes) -> None:
    head = b"PUT /b/k HTTP/1.1\r\nConnection: close\r\nx-amz-decoded-content-length: 3\r\nContent-Length: %d\r\n\r\n"
    async with S3Stub() as stub:
        stub.make_bucket("b")
        assert code in await exchange(stub.url, head % len(wrong) + wrong)
        assert not stub.storage.bucket("b").objects


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_large_body_with_others_behind_it(pieces: int) -> None:
    async with S3Stub() as stub:
        stub.make_bucket("b")
        large = os.urandom(3_000_001)
        wire = b"PUT /b/k HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(large) + large
        wire += b"GET /b/k HTTP/1.1\r\nRange: bytes=1-2000000\r\n\r\nPUT /b/s HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"
        wire += b"GET /b/k HTTP/1.1\r\nConnection: close\r\n\r\n"
        step = len(wire) // pieces + 1
        said = await exchange(stub.url, *(wire[at : at + step] for at in range(0, len(wire), step)))
        assert said.endswith(b"\r\n\r\n" + large)
        assert b"\r\n\r\n" + large[1:2_000_001] + b"HTTP/1.1 200 OK" in said
        assert stub.storage.bucket("b").get("s").body == b"x"
        assert stub.bytes_in == {"PutObject": len(large) + 1}
        assert stub.bytes_out == {"GetObject": len(large) + 2_000_000}


async def test_what_came_of_a_body_that_broke_off_is_counted() -> None:
    async with S3Stub() as stub:
        stub.make_bucket("b")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(stub.url.rpartition(":")[2]))
        writer.write(b"PUT /b/k HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(300_000))
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert stub.bytes_in == {"PutObject": 300_000}
        assert not stub.requests
        assert not stub.storage.bucket("b").objects


async def test_a_client_that_reads_slowly_gets_all_of_it() -> None:
    async with S3Stub() as stub:
        stub.make_bucket("b")
        stub.behaviour.discards = True
        size = 64 * 1024 * 1024
        reader, writer = await asyncio.open_connection("127.0.0.1", int(stub.url.rpartition(":")[2]))
        writer.write(b"PUT /b/k HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(64):
            writer.write(bytes(1024 * 1024))
            await writer.drain()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /b/k HTTP/1.1\r\nConnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        # No more is handed to the system than it takes.
        assert stub.bytes_out["GetObject"] < size
        assert len(await reader.read()) == size
        writer.close()
        await writer.wait_closed()


async def test_a_body_that_s3_would_not_take() -> None:
    async with S3Stub() as stub:
        stub.make_bucket("b")
        head = b"PUT /b/k HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (5 * 1024**3 + 1)
        assert b"EntityTooLarge" in await exchange(stub.url, head)


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
