"""The benchmark of the console: how soon a change is on an open page, and what pages cost.

A tab is its stream, as a browser reads it. A change is a withdrawal that ends: the payment service is asked to
cancel it at a random moment, and the time runs from the saga service's decision, before its commit, to the
fragment with its row.
"""

import asyncio
import random
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
from httpx_sse import aconnect_sse
from rich.console import Console
from uuid_utils.compat import uuid7

from api.access import ADMIN, CLIENT, VIEWER
from api.console.withdrawal import TABS
from api.credentials import create_key
from broker.clients import plain_producer
from contracts.postgres import session
from lab.benchmarks.load import BALANCE_MINOR, FINISH_S, Window, cpu_s, load, open_all
from lab.benchmarks.machine import write
from operations.dead_letters.letters import read_letters
from processors.account.accounts import open_accounts
from stack.supervisor import Stack

RESULTS = Path(__file__).parent / "results" / "console.json"
ENVIRONMENT = {
    "SETTLE_MAILER": "off",
    "SETTLE_API_RATE": "1000000",
    "SETTLE_RETRY_BACKOFF_S": "[3600]",  # what the provider does not answer to waits for its cancellation
}
HOME, LIST, WITHDRAWALS = "/console", "/console/withdrawals", "/v1/withdrawals"
PENDING = "1.19"
"""An amount that the provider does not answer to."""

HELD = (0, 1, 50)
WARM_S = 4.0
PAUSES_S = (0.2, 1.2)
"""Between two changes: they come at any moment between two looks."""

_LOOKS = re.compile(r"^settle_console_looks_total\{[^}]*\} (\S+)$", re.MULTILINE)
_TRANSACTIONS = "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database"
_PENDING = "SELECT count(*) FROM withdrawals WHERE account_id = %s AND state = 'deducted'"
_FINISHED = "SELECT payment_id::text, extract(epoch FROM finished_at) FROM withdrawals WHERE account_id = %s"


def main(
    changes: Annotated[int, typer.Option(min=2, max=50, help="Changes with 1 tab, and with 50.")] = 40,
    window: Annotated[float, typer.Option(min=1, help="How long tabs are held, seconds.")] = 20.0,
    requests: Annotated[int, typer.Option(min=20, help="Of each page, under full load.")] = 40,
    letters: Annotated[int, typer.Option(min=1, help="Dead letters there are.")] = 1_000,
    output: Annotated[Path, typer.Option("--json", help="Where to write the figures.")] = RESULTS,
) -> None:
    """Measure the console."""
    with (
        tempfile.TemporaryDirectory(prefix="settle-bench-") as folder,
        Stack(Path(folder), environment=ENVIRONMENT) as stack,
    ):
        open_all(stack)
        letter, audit_id = _refused(stack, letters), asyncio.run(_audited(stack))
        with load(stack):
            time.sleep(WARM_S)
            busy = Window(stack)
            pages = asyncio.run(_pages(stack, requests, letter, audit_id))
            busy.close()
        tabs = {str(number): asyncio.run(_held(stack, number, window)) for number in HELD}
        seen = {str(number): asyncio.run(_changes(stack, number, changes)) for number in HELD if number}
    figures = {
        "change_visible_s": seen,
        "tabs": tabs,
        "pages_ms": pages,
        "completed_per_s": round(busy.rate),
    }
    write(output, figures)
    _print(figures)


def _refused(stack: Stack, number: int) -> str:
    """Send so many messages that no service can read; the name of a dead letter, once they all are some."""
    producer = plain_producer(stack.state.kafka_bootstrap)
    for _ in range(number):
        headers: dict[str, str | bytes | None] = {"id": str(uuid7()), "eventType": "MoneyDeducted"}
        producer.produce("account.events", b"no JSON", key=b"acc-1", headers=headers)
    producer.flush(FINISH_S)
    give_up = time.monotonic() + FINISH_S
    while len(found := read_letters(stack.state.kafka_bootstrap)) < number:
        if time.monotonic() > give_up:
            raise RuntimeError("they are no dead letters")
        time.sleep(0.5)
    return found[0].id


async def _audited(stack: Stack) -> str:
    """The ID of an audit that has ended."""
    async with _client(stack, ADMIN) as client:
        begun = await client.post("/v1/audits", json={"reason": "the benchmark", "wait_s": 0})
        path = begun.raise_for_status().headers["location"]
        give_up = time.monotonic() + FINISH_S
        while (await client.get(path)).raise_for_status().json()["state"] == "running":
            if time.monotonic() > give_up:
                raise RuntimeError("the audit does not end")
            await asyncio.sleep(0.5)
    return str(path.rpartition("/")[2])


async def _pages(stack: Stack, requests: int, letter: str, audit_id: str) -> dict[str, dict[str, float]]:
    """How long each page takes, in turn, asked for by one reader."""
    async with _client(stack, ADMIN) as client:
        one = await _completed(client)
        account = one["account_id"]
        paths = {
            "flow": HOME,
            "withdrawals": LIST,
            "of a state": f"{LIST}?state=completed",
            "of an account": f"{LIST}?account_id={account}",
            "of both": f"{LIST}?state=completed&account_id={account}",
            "silent for a minute": f"{LIST}?silent_s=60",
            **{f"one: {tab.name}": f"{LIST}/{one['payment_id']}?tab={tab.name}" for tab in TABS},
            "one, never shown yet": "",
            "one under way": "",
            "search": f"{HOME}/search?q={account}",
            "stuck": f"{HOME}/stuck",
            "dead letters": f"{HOME}/dead-letters",
            "one dead letter": f"{HOME}/dead-letters/{quote(letter)}",
            "outboxes": f"{HOME}/outboxes",
            "accounts": f"{HOME}/accounts",
            "one account": f"{HOME}/accounts/{account}",
            "audits": f"{HOME}/audit",
            "one audit": f"{HOME}/audit/{audit_id}",
            "operator log": f"{HOME}/operator-log",
            "settings": f"{HOME}/settings",
        }
        took: dict[str, list[float]] = {name: [] for name in paths}
        for _ in range(requests):
            for name, page in paths.items():
                if name == "one under way":
                    page = f"{LIST}/{await _under_way(client)}"
                elif name == "one, never shown yet":
                    page = f"{LIST}/{(await _completed(client))['payment_id']}"
                began = time.perf_counter()
                answer = await client.get(page, headers={"Accept": "text/html"})
                took[name].append((time.perf_counter() - began) * 1_000)
                assert answer.status_code in (200, 303), answer.text
    return {name: _percentiles(values) for name, values in took.items()}


async def _under_way(client: httpx.AsyncClient) -> str:
    """The payment ID of the newest withdrawal that is not finished."""
    answer = await client.get(WITHDRAWALS, params={"in_flight": True, "limit": 1})
    return str(answer.raise_for_status().json()["withdrawals"][0]["payment_id"])


async def _completed(client: httpx.AsyncClient) -> Any:
    """A withdrawal that is completed, once there is one."""
    give_up = time.monotonic() + FINISH_S
    while time.monotonic() < give_up:
        answer = await client.get(WITHDRAWALS, params={"state": "completed", "limit": 1})
        if found := answer.raise_for_status().json()["withdrawals"]:
            return found[0]
        await asyncio.sleep(0.5)
    raise RuntimeError("no withdrawal is completed")


async def _held(stack: Stack, number: int, window_s: float) -> dict[str, float]:
    """What a number of open tabs of the flow costs: looks and transactions a second, share of a core."""
    async with _client(stack, VIEWER) as client, _open(client, HOME, number):
        before, began = await _used(stack, client), time.monotonic()
        await asyncio.sleep(window_s)
        after, ended = await _used(stack, client), time.monotonic()
    names = ("looks_per_s", "transactions_per_s", "api_cpu_cores")
    return {
        name: round((new - old) / (ended - began), 3) for name, old, new in zip(names, before, after, strict=True)
    }


async def _used(stack: Stack, client: httpx.AsyncClient) -> tuple[float, float, float]:
    metrics = await client.get(f"http://127.0.0.1:{stack.state.http['api']}/metrics")
    return sum(map(float, _LOOKS.findall(metrics.text))), _transactions(stack), cpu_s(stack)["api"]


def _transactions(stack: Stack) -> float:
    """Transactions so far, on the servers of all databases; a read is one."""
    found = 0.0
    for dsn in stack.state.dsns.values():
        with session(dsn, autocommit=True) as connection:
            (number,) = connection.execute(_TRANSACTIONS).fetchone() or (0,)
            found += float(number)
    return found


async def _changes(stack: Stack, tabs: int, number: int) -> dict[str, float]:
    """From the end of a withdrawal to its row on an open list, seconds."""
    account = f"watched-{tabs}"
    open_accounts(stack.state.dsns["account"], [account], BALANCE_MINOR, "USD")
    async with _client(stack, CLIENT) as shop, _client(stack, VIEWER) as client:
        payments = [await _requested(shop, account) for _ in range(number)]
        with session(stack.state.dsns["saga"], autocommit=True) as saga:
            give_up = time.monotonic() + FINISH_S
            while (saga.execute(_PENDING, (account,)).fetchone() or (0,))[0] < number:
                if time.monotonic() > give_up:
                    raise RuntimeError("the withdrawals are not deducted")
                await asyncio.sleep(0.1)
            async with _open(client, f"{LIST}?account_id={account}", tabs - 1):
                shown = asyncio.create_task(_shown(client, f"{LIST}?account_id={account}", payments))
                await asyncio.sleep(2 * PAUSES_S[1])  # its first fragments are there
                for payment_id in payments:
                    await asyncio.sleep(random.uniform(*PAUSES_S))
                    (await shop.post(f"{WITHDRAWALS}/{payment_id}/cancel")).raise_for_status()
                at = await asyncio.wait_for(shown, FINISH_S)
            ended = {one: float(when) for one, when in saga.execute(_FINISHED, (account,)).fetchall()}
    waits = sorted(at[one] - ended[one] for one in payments)
    return {
        "p50": round(statistics.median(waits), 3),
        "p95": round(statistics.quantiles(waits, n=20)[-1], 3),
        "max": round(waits[-1], 3),
    }


async def _requested(shop: httpx.AsyncClient, account: str) -> str:
    body = {"account_id": account, "amount": PENDING, "currency": "USD"}
    answer = await shop.post(WITHDRAWALS, json=body, headers={"Idempotency-Key": str(uuid7())})
    return str(answer.raise_for_status().json()["payment_id"])


async def _shown(client: httpx.AsyncClient, path: str, payments: Sequence[str]) -> dict[str, float]:
    """When the open page of a list showed that each is compensated, by the clock."""
    found: dict[str, float] = {}
    async with aconnect_sse(client, "GET", await _stream(client, path), timeout=None) as source:
        async for event in source.aiter_sse():
            if event.event.startswith("row-") and "s-compensated" in event.data:
                found.setdefault(event.event.removeprefix("row-"), time.time())
                if found.keys() >= {*payments}:
                    break
    return found


@asynccontextmanager
async def _open(client: httpx.AsyncClient, path: str, number: int) -> AsyncIterator[None]:
    """A number of tabs with a page, from the first fragment of each."""

    async def follow(opened: asyncio.Event) -> None:
        async with client.stream("GET", stream, timeout=None) as answer:
            async for _ in answer.aiter_bytes():
                opened.set()

    stream = await _stream(client, path)
    async with AsyncExitStack() as left:
        for _ in range(number):
            opened = asyncio.Event()
            task = asyncio.create_task(follow(opened))
            left.callback(task.cancel)
            await asyncio.wait_for(opened.wait(), FINISH_S)
        yield


async def _stream(client: httpx.AsyncClient, path: str) -> str:
    page = (await client.get(path, headers={"Accept": "text/html"})).raise_for_status().text
    (found,) = re.findall(r'sse-connect="([^"]+)"', page)
    return str(found).replace("&amp;", "&")


def _client(stack: Stack, role: str) -> httpx.AsyncClient:
    key = create_key(stack.state.dsns["api"], f"bench-{role}-{uuid7().hex[-8:]}", role)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=stack.state.api_url, headers=headers, timeout=FINISH_S, limits=limits)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=20)
    return {"p50": round(statistics.median(values), 1), "p95": round(cuts[-1], 1)}


def _print(figures: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for number, one in figures["change_visible_s"].items():
        console.print(
            f"{number:>3} open: a change is visible after p50 {one['p50']:.2f} s, max {one['max']:.2f} s"
        )
    for number, one in figures["tabs"].items():
        cost = f"{one['transactions_per_s']:.1f} transactions/s, {one['api_cpu_cores']:.1%} of a core"
        console.print(f"{number:>3} open: {one['looks_per_s']:.1f} looks/s, {cost}")
    console.print(f"pages, at {figures['completed_per_s']:,} withdrawals/s:")
    for name, ms in figures["pages_ms"].items():
        console.print(f"  {name:<20} p50 {ms['p50']:>6.1f} ms   p95 {ms['p95']:>6.1f} ms")


if __name__ == "__main__":
    typer.run(main)
