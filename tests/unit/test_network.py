"""The slow network delivers what was sent, in order, and as much later as it is told."""

import asyncio
import time

from lab.network import serve
from stack.ports import HOST, choose

DELAY_S = 0.05
PAYLOAD = bytes(range(256)) * 2_000


async def echo(reader, writer):
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()
    writer.close()


async def talk():
    taken = set()
    near, far = choose(taken=taken), choose(taken=taken)
    async with await asyncio.start_server(echo, HOST, far):
        proxy = asyncio.create_task(serve({near: far}, DELAY_S))
        reader, writer = await connect(near)
        began = time.monotonic()
        writer.write(PAYLOAD)
        back = await reader.readexactly(len(PAYLOAD))
        took_s = time.monotonic() - began
        writer.close()
        proxy.cancel()
        await asyncio.gather(proxy, return_exceptions=True)
    return back, took_s


async def connect(port):
    async with asyncio.timeout(60):
        while True:
            try:
                return await asyncio.open_connection(HOST, port)
            except OSError:
                await asyncio.sleep(0.01)


async def ends_at_once():
    taken = set()
    near, nobody = choose(taken=taken), choose(taken=taken)
    proxy = asyncio.create_task(serve({near: nobody}, DELAY_S))
    reader, writer = await connect(near)
    async with asyncio.timeout(60):
        try:
            end = await reader.read()
        except ConnectionResetError:
            end = b""
    writer.close()
    proxy.cancel()
    await asyncio.gather(proxy, return_exceptions=True)
    return end


def test_bytes_arrive_whole_and_late_by_the_delay_each_way():
    back, took_s = asyncio.run(talk())
    assert back == PAYLOAD
    assert took_s >= 2 * DELAY_S


def test_where_nobody_listens_the_connection_ends():
    assert asyncio.run(ends_at_once()) == b""
