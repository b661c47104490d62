"""The benchmark of the API: accepted requests a second beside an empty endpoint and beside a row for each request.

A row for each request is measured twice: written the same way around the framework, and in a handler of it.

All in one run, in turn: first the API and its database alone, then with the whole pipeline on the same cores,
which carries out what is accepted. `wrk` sends the load (Debian: wrk).
"""

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import httpx
import typer
from rich.console import Console
from uuid_utils.compat import uuid7

from api.credentials import create_key
from api.withdrawals import PATH
from contracts.postgres import session
from lab.benchmarks.api_server import EMPTY
from lab.benchmarks.load import ACCOUNTS, FINISH_S, in_turn, open_all, wait_quiet
from lab.benchmarks.machine import write
from operations.audit.run import run as run_audit
from producers.client import WithdrawalClient
from producers.requests import new_request
from stack.ports import HOST, choose
from stack.service import LISTEN
from stack.supervisor import SERVICES, Stack

RESULTS = Path(__file__).parent / "results" / "api.json"
KINDS = ("empty", "handler, one by one", "one by one", "batches")
PATHS = {"empty": EMPTY, "handler, one by one": f"{PATH}/"}
"""With a slash more, a request goes through the framework (:mod:`api.short`)."""

ENVIRONMENT = {"SETTLE_MAILER": "off", "SETTLE_API_RATE": "1000000"}
RATE_QUIET = 200.0
ROUNDS_QUIET = 3
WARM_S = 5.0
AMOUNT = "1.00"

# Every request has a key of its own; its account follows from it.
_SCRIPT = """
local thread, requests = 0, 0
function setup(of) of:set("number", thread); thread = thread + 1 end
function request()
  requests = requests + 1
  local body = string.format('{{"account_id":"acc-%d","amount":"{amount}","currency":"USD"}}',
    math.random({accounts}))
  return wrk.format("POST", "{path}", {{["Authorization"]="Bearer {key}",
    ["Content-Type"]="application/json", ["Idempotency-Key"]="{run}-" .. number .. "-" .. requests}}, body)
end
"""
_MS = {"us": 0.001, "ms": 1.0, "s": 1_000.0}


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Windows of each.")] = 3,
    window: Annotated[float, typer.Option(min=1, help="Length of one window, seconds.")] = 8.0,
    connections: Annotated[int, typer.Option(min=1, help="Of the clients.")] = 64,
    quiet: Annotated[float, typer.Option(min=0, help="How long 200 a second are sent, seconds, thrice.")] = 10.0,
    output: Annotated[Path, typer.Option("--json", help="Where to write the figures.")] = RESULTS,
) -> None:
    """Measure the API."""
    if shutil.which("wrk") is None:
        raise typer.BadParameter("wrk is not installed (Debian: apt-get install wrk)")
    console = Console(highlight=False)
    with _stack(()) as stack:
        alone = _in_turn(stack, rounds, connections, window, drain=False)
    with _stack(SERVICES) as stack:
        open_all(stack)
        beside = _in_turn(stack, rounds, connections, window, drain=True)
        at_rest = _at_rest(stack, quiet) if quiet else {}
        audit = run_audit(stack.state.dsns, stack.state.kafka_bootstrap, FINISH_S)
    result: dict[str, Any] = {
        "alone": alone,
        "with the pipeline": beside,
        "at 200/s": at_rest,
        "connections": connections,
        "audit_ok": audit.ok,
    }
    write(output, result)
    for name, figures in (("alone", alone), ("with the pipeline", beside)):
        console.print(name)
        for kind in KINDS:
            one = figures[kind]
            console.print(
                f"  {kind:<20} {one['per_s']:>9,.0f}/s   p50 {one['p50_ms']:.1f} ms   p99 {one['p99_ms']:.1f} ms"
            )
        rate = figures["batches"]["per_s"]
        same, handler = (rate / figures[kind]["per_s"] for kind in ("one by one", "handler, one by one"))
        console.print(f"  batches: {same:.2f} times a row for each request, {handler:.2f} times one in a handler")
        console.print(f"  batches: {rate / figures['empty']['per_s']:.0%} of the empty endpoint")
    if quiet:
        for who, ms in at_rest.items():
            console.print(
                f"at {RATE_QUIET:.0f}/s the {who} answers in: p50 {ms['p50_ms']:.1f} ms, p99 {ms['p99_ms']:.1f} ms"
            )
    console.print(f"the audit {'holds' if audit.ok else 'does not hold'}")


@contextmanager
def _stack(services: Sequence[str]) -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="settle-bench-") as folder,
        Stack(Path(folder), services=services, environment=ENVIRONMENT) as stack,
    ):
        yield stack


def _in_turn(
    stack: Stack, rounds: int, connections: int, window: float, *, drain: bool
) -> dict[str, dict[str, float]]:
    """The medians of each kind's windows."""
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    key = _key(stack)
    for number in range(rounds):
        for kind in in_turn(KINDS, number):
            with _server(stack, one_by_one=kind.endswith("one by one")) as url:
                found[kind].append(_wrk(url, kind, key, connections, window))
            if drain:
                _drain(stack)
    return {kind: _median(windows) for kind, windows in found.items()}


def _key(stack: Stack) -> str:
    return create_key(stack.state.dsns["api"], "bench", "client")


@contextmanager
def _server(stack: Stack, *, one_by_one: bool = False) -> Iterator[str]:
    """The API in one of its variants; its address."""
    port = choose()
    variables = {**os.environ, **stack.environment(), **ENVIRONMENT, LISTEN: f"{HOST}:{port}"}
    command = [sys.executable, "-P", "-m", "lab.benchmarks.api_server", *(["--one-by-one"] if one_by_one else [])]
    url = f"http://{HOST}:{port}"
    with subprocess.Popen(command, env=variables) as process:
        try:
            deadline = time.monotonic() + FINISH_S
            while not _answers(url):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError("the API did not start")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}{EMPTY}").is_success
    except httpx.TransportError:
        return False


def _wrk(url: str, kind: str, key: str, connections: int, window_s: float) -> dict[str, float]:
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{window_s:.0f}s"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        path = PATHS.get(kind, PATH)
        script.write(_SCRIPT.format(path=path, amount=AMOUNT, accounts=ACCOUNTS, key=key, run=uuid7()))
        script.flush()
        command += [f"{url}{path}"] if kind == "empty" else [f"-s{script.name}", url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # A timeout is a latency of more than two seconds, which the percentiles have.
    if "Non-2xx" in said or re.search(r"Socket errors: (?!connect 0, read 0, write 0)", said):
        raise RuntimeError(said)
    of = {share: float(value) * _MS[unit] for share, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(\w+)", said)}
    (per_s,) = re.findall(r"Requests/sec:\s+([\d.]+)", said)
    return {"per_s": float(per_s), "p50_ms": of["50"], "p99_ms": of["99"]}


def _at_rest(stack: Stack, seconds: float) -> dict[str, dict[str, Any]]:
    """The medians of latencies at 200 requests a second, of the API and of a producer in turn."""
    found: dict[str, list[dict[str, float]]] = {"API": [], "producer": []}
    for number in range(ROUNDS_QUIET):
        for who in in_turn(tuple(found), number):
            if who == "API":
                with _server(stack) as url:
                    found[who].append(asyncio.run(_quiet(url, _key(stack), seconds)))
            else:
                found[who].append(_produced(stack, seconds))
            wait_quiet(stack)
    return {who: _median(windows) for who, windows in found.items()}


async def _quiet(url: str, key: str, seconds: float) -> dict[str, float]:
    """Latencies at 200 requests a second, each sent at its time, whether others are answered or not."""
    latencies: list[float] = []

    async def post(client: aiohttp.ClientSession) -> None:
        body = {"account_id": "acc-1", "amount": AMOUNT, "currency": "USD"}
        started = time.perf_counter()
        async with client.post("/v1/withdrawals", json=body, headers={"Idempotency-Key": str(uuid7())}) as answer:
            await answer.read()
            answer.raise_for_status()
        latencies.append((time.perf_counter() - started) * 1_000)

    # A client that costs little itself: it is on the same cores.
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as client:
        started, tasks = time.perf_counter(), []
        for number in range(int((WARM_S + seconds) * RATE_QUIET)):
            await asyncio.sleep(max(0.0, started + number / RATE_QUIET - time.perf_counter()))
            tasks.append(asyncio.create_task(post(client)))
        await asyncio.gather(*tasks)
    return _percentiles(latencies)


def _produced(stack: Stack, seconds: float) -> dict[str, float]:
    """Delivery times of a producer at the same rate."""
    latencies: list[float] = []
    with WithdrawalClient(stack.state.kafka_bootstrap) as client:
        started = time.perf_counter()
        for number in range(int((WARM_S + seconds) * RATE_QUIET)):
            while time.perf_counter() < started + number / RATE_QUIET:
                client.poll(0.001)
            client.send(
                new_request("acc-1", AMOUNT),
                lambda outcome: latencies.append(getattr(outcome, "latency_s", 0.0) * 1_000),
            )
    return _percentiles(latencies)


def _percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Of those after the warm-up."""
    cuts = statistics.quantiles(latencies[int(WARM_S * RATE_QUIET) :], n=100)
    return {"p50_ms": round(cuts[49], 2), "p99_ms": round(cuts[98], 2)}


def _drain(stack: Stack) -> None:
    """Wait until the pipeline is done with what was accepted, so that each window finds it at rest."""
    deadline = time.monotonic() + FINISH_S * 2
    with session(stack.state.dsns["api"]) as api, session(stack.state.dsns["saga"], autocommit=True) as saga:
        (accepted,) = api.execute("SELECT count(*) FROM withdrawals").fetchone() or (0,)
        query = "SELECT count(*) FROM withdrawals WHERE finished_at IS NOT NULL"
        while (saga.execute(query).fetchone() or (0,))[0] < accepted and time.monotonic() < deadline:
            time.sleep(0.5)


def _median(windows: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {name: round(statistics.median(one[name] for one in windows), 2) for name in windows[0]}


if __name__ == "__main__":
    typer.run(main)
