"""Many connections at one process of the API: nobody is held up by the others, and nothing stays behind."""

import asyncio
import json
import resource
import select
import socket
from contextlib import ExitStack

import httpx
import psutil
import pytest
from uuid_utils.compat import uuid7

from api.service import CONNECTIONS_MAX
from tests.conftest import WAIT_S, wait_until
from tests.integration.api.front import WITHDRAWALS, Front, body, head, new_key, requested

FOLLOWERS = 1_000
AT_ONCE = 100
RSS_MAX = 200 * 1024**2
FILES_MORE = 20
"""Connections to databases that the API may have opened meanwhile, and keeps."""


@pytest.fixture(autouse=True)
def files():
    """As many files as this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def follower(path: str, key: str) -> bytes:
    return head("GET", path, key, Accept="text/event-stream")


async def until(reader: asyncio.StreamReader, wanted: bytes) -> None:
    """Read lines up to one with certain bytes."""
    async with asyncio.timeout(WAIT_S):
        while wanted not in (line := await reader.readline()):
            assert line, "the stream ended"


def test_a_thousand_who_follow_hold_up_nobody_and_leave_nothing_behind(front: Front):
    account, key = front.open_account(), front.key(f"shop-{uuid7()}")
    api = psutil.Process(front.stack.pid("api"))
    paths = ["/v1/events", f"{WITHDRAWALS}/{{}}/events"]

    def ended() -> float:
        routes = ("/v1/events", "/v1/withdrawals/{payment_id}/events")
        return sum(front.measured("settle_http_requests_total", route=route) for route in routes)

    async def crowd(shop: httpx.Client) -> None:
        awaited = requested(shop, account)
        room = asyncio.Semaphore(AT_ONCE)

        async def follow(number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            async with room:
                reader, writer = await asyncio.open_connection(*front.place)
                writer.write(follower(paths[number % 2].format(awaited), key))
                await until(reader, b"200 OK")
            return reader, writer

        followers = await asyncio.gather(*(follow(number) for number in range(FOLLOWERS)))
        try:
            wait_until(lambda: front.measured("settle_http_streams") == FOLLOWERS, "all follow")
            for _ in range(20):
                requested(shop, account)
            front.stack.start_service("relay")
            told = f'"payment_id":"{awaited}"'.encode()
            await asyncio.gather(*(until(reader, told) for reader, _ in followers))
            assert api.memory_info().rss <= RSS_MAX
            requested(shop, account)
        finally:
            for _, writer in followers:
                writer.close()

    with front.http(key) as shop:
        requested(shop, account)
        files, answered = api.num_fds(), ended()
        front.stack.stop_service("relay")  # nothing ends before all are there
        try:
            asyncio.run(crowd(shop))
        finally:
            front.stack.start_service("relay")
        wait_until(lambda: front.measured("settle_http_streams") == 0, "nobody follows any more")
        wait_until(lambda: ended() == answered + FOLLOWERS, "every request has ended")
        wait_until(lambda: api.num_fds() <= files + FILES_MORE, "the connections are closed")


def has_news(*clients: socket.socket) -> bool:
    """Whether one of them has been sent something, or sent away."""
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLIN)
    return bool(poll.poll(0))


def test_whoever_finds_no_room_waits_and_those_who_are_there_do_not(front: Front):
    account, key = front.open_account(), front.key(f"shop-{uuid7()}")
    content = json.dumps(body(account)).encode()
    about = {"Content_Type": "application/json", "Content_Length": str(len(content)), "Idempotency_Key": new_key()}
    kept = httpx.Limits(keepalive_expiry=None)
    with ExitStack() as stack, front.http(key, limits=kept) as shop:

        def connected() -> socket.socket:
            return stack.enter_context(socket.create_connection(front.place, timeout=WAIT_S))

        follows = connected()
        follows.sendall(follower("/v1/events", key))
        assert follows.recv(65_536).startswith(b"HTTP/1.1 200")
        requested(shop, account)
        silent = [connected() for _ in range(CONNECTIONS_MAX - 2)]
        first = requested(shop, account)
        late = connected()
        late.sendall(head("POST", WITHDRAWALS, key, **about) + content)
        # The follower and the shop are among those that have room.
        requested(shop, account)
        # Those that say nothing are sent away after a while; until then there is none for who is late.
        is_answered = has_news(late)
        assert not is_answered or has_news(*silent)
        received = b""
        while str(first).encode() not in received:
            received += follows.recv(65_536)
        assert late.recv(65_536).startswith(b"HTTP/1.1 202")
        assert silent[0].recv(1) == b""


def test_the_api_raises_its_limit_of_open_files_as_far_as_it_may(front: Front):
    soft, hard = psutil.Process(front.stack.pid("api")).rlimit(psutil.RLIMIT_NOFILE)
    assert min(CONNECTIONS_MAX + 1, hard) <= soft
