"""A WebSocket server that does what the path says.

usage: ws_server.py     (prints the address that it listens on; then one line for each connection that ended)
"""

import asyncio
import os

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def handle(connection):
    path = connection.request.path
    word, _, argument = path.lstrip("/").partition("/")
    try:
        if word == "close":
            await connection.close(int(argument), f"asked for {argument}")
        elif word == "fragments":
            await connection.send([f"piece {number} ".encode() for number in range(int(argument))])
            await connection.send([f"piece {number} " for number in range(int(argument))])
        elif word == "die":
            await connection.send("last words")
            await asyncio.sleep(0.2)
            os._exit(1)
        elif word == "headers":
            for name, value in connection.request.headers.raw_items():
                await connection.send(f"{name.lower()}: {value}")
        elif word == "ping":
            await (await connection.ping(b"are you there?"))
            await connection.send("it is")
        else:
            async for message in connection:
                await connection.send(message)
        await connection.wait_closed()
    except ConnectionClosed:
        pass
    print(path, connection.close_code, flush=True)


def check(connection, request):
    if request.path == "/refuse":
        return connection.respond(401, "not you\n")
    if request.path == "/slow":
        return asyncio.sleep(0.3)


def choose(connection, offered):
    """One that it knows, or none: the library's own choice turns away who offers none."""
    return next((protocol for protocol in offered if protocol.startswith("chat.")), None)


async def main():
    options = {"select_subprotocol": choose, "max_size": None, "ping_interval": None}
    async with serve(handle, "127.0.0.1", 0, process_request=check, **options) as server:
        print("%s:%d" % server.sockets[0].getsockname(), flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
