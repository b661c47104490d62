"""A slow network on one machine: TCP proxies that deliver bytes a fixed time after they came, each way.

They run in a process of their own, so that neither side's interpreter carries their load::

    python -m lab.network --delay-ms 5 19001:9001 19002:9002

Bandwidth is not limited. ``tc netem`` would do the same, but needs root and a kernel that has it.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

import typer

from stack.ports import HOST
from stack.process import Child, Home, start

CHUNK_BYTES = 65_536
# How much may be on its way in one direction; who sends more waits, as on a full link.
CHUNKS_UNDER_WAY_MAX = 512

Accepted = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay_s: float) -> None:
    """Bytes of one direction, and the end of the stream after them."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_UNDER_WAY_MAX)
    now = asyncio.get_running_loop().time

    async def receive() -> None:
        chunk = b"-"
        while chunk:
            chunk = await source.read(CHUNK_BYTES)
            await under_way.put((now() + delay_s, chunk))

    async def deliver() -> None:
        while True:
            due, chunk = await under_way.get()
            if (wait_s := due - now()) > 0:
                await asyncio.sleep(wait_s)
            if not chunk:
                return
            sink.write(chunk)
            await sink.drain()

    async with asyncio.TaskGroup() as both:
        both.create_task(receive())
        both.create_task(deliver())


async def _connect(port: int, delay_s: float, near: asyncio.StreamReader, near_sink: asyncio.StreamWriter) -> None:
    """One connection; where either side ends it, or nobody listens, both are closed."""
    sinks = [near_sink]
    try:
        far, far_sink = await asyncio.open_connection(HOST, port)
        sinks.append(far_sink)
        ways = [
            asyncio.create_task(_carry(near, far_sink, delay_s)),
            asyncio.create_task(_carry(far, near_sink, delay_s)),
        ]
        _, others = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for one in others:
            one.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    except OSError:
        pass
    finally:
        for sink in sinks:
            sink.transport.abort()


async def serve(routes: Mapping[int, int], delay_s: float) -> None:
    """Carry connections from each port to another one of this machine, until cancelled."""

    def to(port: int) -> Accepted:
        return lambda near, near_sink: _connect(port, delay_s, near, near_sink)

    servers = [await asyncio.start_server(to(port), HOST, listen) for listen, port in routes.items()]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def launch(home: Home, routes: Mapping[int, int], delay_ms: float) -> Child:
    """Start the proxies as a child process: from each port to another one."""
    ways = [f"{listen}:{port}" for listen, port in routes.items()]
    return start(home, "network", [sys.executable, "-m", "lab.network", "--delay-ms", str(delay_ms), *ways])


def main(
    ways: Annotated[list[str], typer.Argument(help="PORT:PORT, where to listen and where to connect.")],
    delay_ms: Annotated[float, typer.Option(min=0, help="How long each byte is under way, milliseconds.")] = 5.0,
) -> None:
    """Carry TCP connections with a delay each way."""
    routes = {int(listen): int(port) for listen, _, port in (way.partition(":") for way in ways)}
    asyncio.run(serve(routes, delay_ms / 1e3))


if __name__ == "__main__":
    typer.run(main)
