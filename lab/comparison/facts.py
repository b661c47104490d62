"""The facts of what an approach takes to run: lines counted by a program, waits counted by the connection."""

import ast
import io
import tokenize
from contextlib import closing
from pathlib import Path

from lab.approaches.connections import Connection
from lab.comparison.caller import ask, is_open, wait_for
from lab.comparison.load import AMOUNT_MINOR, BALANCE_MINOR, Meter
from lab.comparison.results import Facts
from lab.comparison.sites import Site
from lab.comparison.specs import Spec
from producers.requests import new_request

ROOT = Path(__file__).parents[2]
ALONE = 20
METERED = 6
WARM_UP = 10
"""Withdrawals after which psycopg has prepared the statements it repeats."""

_LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER)


def facts(site: Site, *, metered: bool = True) -> Facts:
    """Count, with one withdrawal at a time.

    Args:
        site: whose.
        metered: whether to ask the server what it wrote; takes seconds where there are workers.
    """
    name = f"alone-{site.spec.name}"
    site.open_accounts([name], BALANCE_MINOR)
    with closing(site.client()) as client:
        for _ in range(WARM_UP):
            ask(client, new_request(name, amount_minor=AMOUNT_MINOR))
        waits = Connection.waits
        for _ in range(ALONE):
            ask(client, new_request(name, amount_minor=AMOUNT_MINOR))
        waits = Connection.waits - waits
    spec = site.spec
    return Facts(
        code_lines=code_lines(spec),
        databases=len(spec.databases),
        processes=spec.processes,
        moving_parts=len(spec.databases) + spec.processes + spec.publishes,
        round_trips=waits / ALONE + spec.kafka_trips,
        fsyncs=_fsyncs(site, name) if metered else None,
    )


def _fsyncs(site: Site, name: str) -> float:
    """For one withdrawal that has the server to itself until it is finished."""
    meter = Meter(site, name)
    with closing(site.client()) as client:
        for _ in range(METERED):
            request = new_request(name, amount_minor=AMOUNT_MINOR)
            outcome, _ = ask(client, request)
            if is_open(outcome):
                wait_for(lambda: request.payment_id in site.finished_at(request.payment_id), "finished")  # noqa: B023
    return meter.read(METERED).fsyncs


def code_lines(spec: Spec) -> int:
    """Lines with code on the approach's pages: no blank ones, no comments, no docstrings."""
    files: list[Path] = []
    for page in spec.pages:
        path = ROOT / page
        files += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return sum(_code_lines(file.read_text()) for file in files)


def _code_lines(source: str) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                assert first.end_lineno is not None
                lines -= set(range(first.lineno, first.end_lineno + 1))
    return len(lines)
