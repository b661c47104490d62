"""The benchmark of lists: how long a page of withdrawals takes with few stored and with many.

The rows are written by one statement, as the saga service leaves them: a withdrawal in a thousand is open, one in
fifty rejected, one in a hundred compensated.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console

from contracts.postgres import session
from lab.benchmarks.machine import write
from operations.withdrawals import Wanted, page
from processors.saga.decide import COMPENSATED, COMPLETED, REJECTED
from stack.supervisor import Stack

RESULTS = Path(__file__).parent / "results" / "lists.json"
PAGE = 50
ACCOUNTS = 100
"""With few stored, an account has two pages already: pages of the same length are compared."""

SILENT_S = 60.0

_FILL = """
INSERT INTO withdrawals (payment_id, account_id, amount_minor, currency, state, seen, reason, trace_id,
    requested_at, created_at, updated_at, finished_at, finished_by)
SELECT gen_random_uuid(), 'acc-' || 1 + floor(random() * %(accounts)s::integer), 100, 'USD', state, 7,
    CASE state WHEN 'compensated' THEN 'declined' WHEN 'rejected' THEN 'insufficient funds' END,
    replace(gen_random_uuid()::text, '-', ''), at, at, at + interval '1 second',
    CASE WHEN state <> 'paid' THEN at + interval '1 second' END,
    CASE WHEN state <> 'paid' THEN 'WithdrawalCompleted' END
FROM (
    SELECT now() - make_interval(secs => (%(until)s::integer - number) / 1000.0) AS at,
        CASE WHEN number %% 1000 = 0 THEN 'paid' WHEN number %% 50 = 1 THEN 'rejected'
            WHEN number %% 100 = 2 THEN 'compensated' ELSE 'completed' END AS state
    FROM generate_series(%(first)s::integer, %(last)s::integer) AS number
) AS made
"""


def main(
    few: Annotated[int, typer.Option(min=1_000, help="Withdrawals stored at first.")] = 10_000,
    many: Annotated[int, typer.Option(min=1_000, help="Stored in the end.")] = 1_000_000,
    requests: Annotated[int, typer.Option(min=100, help="Pages of each kind.")] = 1_000,
    output: Annotated[Path, typer.Option("--json", help="Where to write the figures.")] = RESULTS,
) -> None:
    """Measure lists of withdrawals."""
    found = {}
    with (
        tempfile.TemporaryDirectory(prefix="settle-bench-") as folder,
        Stack(Path(folder), services=()) as stack,
        session(stack.state.dsns["saga"], autocommit=True) as connection,
    ):
        stored = 0
        for number in (few, many):
            about = {"accounts": ACCOUNTS, "first": stored + 1, "last": number, "until": many}
            connection.execute(_FILL, about)
            connection.execute("VACUUM ANALYZE withdrawals")
            stored = number
            found[str(number)] = _measure(connection, requests)
    ratios = {
        name: round(found[str(many)][name]["p99_ms"] / found[str(few)][name]["p99_ms"], 2)
        for name in found[str(many)]
    }
    write(output, {"pages": found, "p99_ratio": ratios})
    console = Console(highlight=False)
    for name, ratio in ratios.items():
        times = ", ".join(f"{one[name]['p50_ms']:.2f} and {one[name]['p99_ms']:.2f}" for one in found.values())
        console.print(f"{name:<24} p50 and p99 {times} ms: p99 {ratio:.2f} times")


def _measure(connection: psycopg.Connection[Any], requests: int) -> Mapping[str, dict[str, float]]:
    """Percentiles of the pages of each kind, in turn, each of an account at random."""
    chance = random.Random(1)
    took: dict[str, list[float]] = {}
    for _ in range(requests):
        account = f"acc-{chance.randint(1, ACCOUNTS)}"
        for name, wanted in _filters(account).items():
            began = time.perf_counter()
            page(connection, wanted, PAGE)
            took.setdefault(name, []).append((time.perf_counter() - began) * 1_000)
    return {name: _percentiles(values) for name, values in took.items()}


def _filters(account: str) -> dict[str, Wanted]:
    return {
        "all": Wanted(),
        "of a state": Wanted(states=frozenset({COMPLETED})),
        "of a rare state": Wanted(states=frozenset({COMPENSATED})),
        "in flight": Wanted(in_flight=True),
        "silent": Wanted(silent_s=SILENT_S),
        "with a reason": Wanted(reason="declined"),
        "of an account": Wanted(account_id=account),
        "of an account and state": Wanted(states=frozenset({COMPLETED}), account_id=account),
        "of it and rare states": Wanted(states=frozenset({REJECTED, COMPENSATED}), account_id=account),
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100)
    return {"p50_ms": round(statistics.median(values), 3), "p99_ms": round(cuts[98], 3)}


if __name__ == "__main__":
    typer.run(main)
