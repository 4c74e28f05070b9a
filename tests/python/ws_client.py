"""Talks to ws_server.py through a proxy.

usage: ws_client.py CASE PROXY     (CASE is a function below, or `all` for every one that starts with `talk_`)
"""

import asyncio
import base64
import os
import socket
import ssl
import struct
import sys
import time

from websockets.asyncio.client import connect as connect_to
from websockets.exceptions import ConnectionClosed, InvalidStatus

case, proxy = sys.argv[1:3]
certificates = sys.argv[3] if len(sys.argv) > 3 else None


def connect(path, **options):
    options = {"max_size": None, "ping_interval": None, "open_timeout": 20, "compression": None} | options
    if certificates:
        options["ssl"] = ssl.create_default_context(cafile=certificates)
    return connect_to(f"{'wss' if certificates else 'ws'}://{proxy}{path}", **options)


async def talk_text_and_binary():
    async with connect("/echo") as connection:
        for message in ("", "hello", "größer 🦀", b"", bytes(range(256)), b"x" * 125, b"x" * 126, b"x" * 65536):
            await connection.send(message)
            assert await connection.recv() == message


async def talk_compressed():
    async with connect("/echo", compression="deflate") as connection:
        assert connection.protocol.extensions, "the extension did not survive"
        for _ in range(10):
            await connection.send("again and again " * 1000)
            assert await connection.recv() == "again and again " * 1000


async def talk_in_fragments():
    async with connect("/echo") as connection:
        await connection.send(f"piece {number} ".encode() for number in range(500))
        pieces = [piece async for piece in connection.recv_streaming()]
        assert b"".join(pieces) == b"".join(f"piece {number} ".encode() for number in range(500))
    async with connect("/fragments/20") as connection:
        # Fragments stay as they are: a proxy has no business putting them together.
        binary = [piece async for piece in connection.recv_streaming(decode=False)]
        text = [piece async for piece in connection.recv_streaming()]
        assert binary[3] == b"piece 3 " and text[3] == "piece 3 ", (binary, text)


async def talk_pings():
    async with connect("/ping") as connection:
        assert await connection.recv() == "it is"
        assert await (await connection.ping(b"and you?")) < 20


async def talk_close_codes():
    for code in (1000, 1001, 1008, 1011, 3000, 4999):
        async with connect(f"/close/{code}") as connection:
            try:
                await connection.recv()
            except ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (code, f"asked for {code}"), closed
    connection = await connect("/echo")
    await connection.close(4001, "we had enough")
    assert connection.close_code == 4001


async def talk_large_messages():
    message = os.urandom(16 * 1024 * 1024)
    async with connect("/echo") as connection:
        await connection.send(message)
        assert await connection.recv() == message


async def talk_a_lot_both_ways_at_once():
    """Neither end waits for the other: with a proxy that moves one way at a time this never ends."""
    count = 300

    async def send(connection):
        for number in range(count):
            await connection.send(bytes([number % 256]) * 50_000)

    async with connect("/echo") as connection:
        sending = asyncio.create_task(send(connection))
        for number in range(count):
            assert await connection.recv() == bytes([number % 256]) * 50_000
        await sending


async def talk_subprotocols():
    async with connect("/echo", subprotocols=["chat.v1", "other"]) as connection:
        assert connection.subprotocol == "chat.v1"
    async with connect("/echo", subprotocols=["chat.v2", "chat.v1"]) as connection:
        assert connection.subprotocol == "chat.v2"


async def talk_headers():
    async with connect("/headers", additional_headers={"x-token": "secret", "cookie": "a=1"}, origin="http://a") as c:
        lines = [await c.recv() for _ in range(5)]
        while True:
            try:
                lines.append(await asyncio.wait_for(c.recv(), 0.5))
            except TimeoutError:
                break
        for wanted in ("x-token: secret", "cookie: a=1", "origin: http://a", "sec-websocket-version: 13"):
            assert wanted in lines, lines


async def talk_refused_by_the_server():
    try:
        await connect("/refuse")
        raise AssertionError("it was let in")
    except InvalidStatus as error:
        assert error.response.status_code == 401 and error.response.body == b"not you\n", error.response


async def talk_many_at_once():
    async def one(number):
        async with connect("/echo") as connection:
            for turn in range(20):
                await connection.send(f"{number} {turn}")
                assert await connection.recv() == f"{number} {turn}"

    await asyncio.gather(*(one(number) for number in range(100)))


async def talk_before_the_101():
    """A client that does not wait: what it sends is held until the server has agreed, and not lost."""
    for path in ("/echo", "/slow"):
        key = base64.b64encode(os.urandom(16)).decode()
        frame = b"\x81\x85\x00\x00\x00\x00early"
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {proxy}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        with raw() as stream:
            stream.sendall(head.encode() + frame)
            answer = read_until(stream, b"\x81\x05early")
            assert answer.startswith(b"HTTP/1.1 101 "), answer


async def refused():
    """The proxy is not told to let upgrades pass."""
    try:
        await connect("/echo")
        raise AssertionError("it was let in")
    except InvalidStatus as error:
        assert error.response.status_code == 403, error.response


async def server_dies():
    connection = await connect("/die")
    assert await connection.recv() == "last words"
    try:
        await asyncio.wait_for(connection.recv(), 20)
        raise AssertionError("it lives on")
    except ConnectionClosed as closed:
        assert closed.rcvd is None, closed


async def client_dies():
    """Closes with a reset; the server must see the end."""
    connection = await connect("/echo/reset")
    await connection.send("hello")
    assert await connection.recv() == "hello"
    stream = connection.transport.get_extra_info("socket")
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.transport.abort()


async def client_half_closes():
    """Says that it will send no more, and still gets what was on its way."""
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET /echo/half HTTP/1.1\r\nHost: {proxy}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    with raw() as stream:
        stream.sendall(head.encode())
        read_until(stream, b"\r\n\r\n")
        stream.sendall(b"\x81\x84\x00\x00\x00\x00half")
        stream.shutdown(socket.SHUT_WR)
        assert b"\x81\x04half" in read_until(stream, None)


async def idle():
    """Nothing is said for longer than the proxy waits; something now and then keeps it open."""
    connection = await connect("/echo/idle")
    for _ in range(8):
        await asyncio.sleep(0.4)
        await connection.send("still here")
        assert await connection.recv() == "still here"
    started = time.monotonic()
    try:
        await asyncio.wait_for(connection.recv(), 20)
    except ConnectionClosed:
        assert 1 < time.monotonic() - started < 15


def raw():
    host, port = proxy.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=20)


def read_until(stream, end):
    """Reads until `end` came, or until the other side closes."""
    data = b""
    while end is None or end not in data:
        piece = stream.recv(65536)
        if not piece:
            assert end is None, data
            return data
        data += piece
    return data


async def main():
    if case != "all":
        return await globals()[case]()
    for name, function in list(globals().items()):
        if name.startswith("talk_"):
            started = time.monotonic()
            try:
                await asyncio.wait_for(function(), 60)
            except BaseException:
                print(f"{name} failed", flush=True)
                raise
            print(f"{name} {time.monotonic() - started:.2f} s", flush=True)


asyncio.run(main())
