"""Mutation testing of what decides and what judges: one expression is changed, and a unit test has to notice.

    make mutate [MUTATE="operations/audit/story.py …"]

Each mutant lives in a process of its own, forked off one that has imported pytest, and in memory: no file is
touched. It is killed where a test fails or takes too long. What survives is printed: a condition that no test
looks at, code that does nothing, or an equivalent mutant, which is named with its reason in :data:`EQUIVALENT`.
The exit code is 1 if any other survives, or if one that is named there does not.
"""

import ast
import contextlib
import copy
import importlib
import importlib.util
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

from tests.mutants_equivalent import EQUIVALENT

ROOT = Path(__file__).parents[1]
LIMIT_S = 60
"""Of CPU time; one that waits for ever has ten times as long."""

# What tests need of others is imported once; ours is imported beside each mutant.
for _name in ("confluent_kafka.admin", "faust", "opentelemetry.sdk.trace.export", "psutil", "psycopg"):
    importlib.import_module(_name)

# What is mutated, and the tests that have to notice.
TARGETS = {
    "processors/account/decide.py": ("tests/unit/test_account_decide.py",),
    "processors/payment/decide.py": ("tests/unit/test_payment_decide.py",),
    "processors/notification/decide.py": ("tests/unit/test_notification_decide.py",),
    "processors/saga/decide.py": ("tests/unit/test_saga_decide.py",),
    "operations/audit/story.py": ("tests/unit/test_audit_story.py",),
    "operations/audit/sides.py": ("tests/unit/test_audit_sides.py",),
    "operations/audit/arrivals.py": ("tests/unit/test_audit_arrivals.py",),
    "operations/audit/run.py": ("tests/unit/test_audit_run.py",),
    "operations/audit/again.py": ("tests/unit/test_audit_run.py",),
    "operations/lag.py": ("tests/unit/test_audit_run.py",),
    "operations/audit/offenders.py": ("tests/unit/test_audit_run.py",),
    "operations/audit/spill.py": ("tests/unit/test_audit_arrivals.py",),
    "operations/trace_check.py": ("tests/unit/test_trace_check.py",),
    "lab/chaos/verdict.py": ("tests/unit/test_chaos_verdict.py",),
    "outbox_relay/acknowledgements.py": ("tests/unit/test_relay_acknowledgements.py",),
    "outbox_relay/pgoutput.py": ("tests/unit/test_pgoutput.py",),
    "processors/runtime/pipeline.py": ("tests/unit/test_pipeline.py",),
}

_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_DECIDED = (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Constant)
"""Conditions that are mutated by themselves, so need not be negated."""


class Mutant(NamedTuple):
    """One expression of a module changed; the name says where and how, and not on which line."""

    name: str
    line: int
    change: Callable[[], str]


def mutants(file: str, tree: ast.Module) -> Iterator[Mutant]:
    """Every mutant of a file, in its order; made of the tree by calling ``change``."""
    for scope, node in _nodes(tree):
        before = ast.unparse(node).partition("\n")[0]
        twin = copy.deepcopy(node)
        for number, change in enumerate(_changes(node)):
            after = list(_changes(twin))[number]()
            twin = copy.deepcopy(node)
            yield Mutant(f"{file} {scope}: {before} -> {after}", node.lineno, change)


def _nodes(tree: ast.Module) -> Iterator[tuple[str, ast.expr | ast.stmt]]:
    """Expressions and statements that run, with the function or class around each; no annotation, no docstring."""

    def walk(node: ast.AST, scope: str) -> Iterator[tuple[str, ast.expr | ast.stmt]]:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "type_params", "msg"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST) or _says_nothing(child):
                    continue
                inner = scope
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    inner = child.name if scope == "module" else f"{scope}.{child.name}"
                elif isinstance(child, ast.expr | ast.stmt):
                    yield scope, child
                yield from walk(child, inner)

    yield from walk(tree, "module")


def _says_nothing(node: ast.AST) -> bool:
    """Docstrings, assertions, imports for types, and what is logged."""
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if not isinstance(node, ast.Expr):
        return False
    return isinstance(node.value, ast.Constant) or ast.unparse(node.value).startswith("log.")


def _changes(node: ast.expr | ast.stmt) -> Iterator[Callable[[], str]]:
    """Ways to change a node in its place; each says what became of it."""
    if isinstance(node, ast.Compare):
        for number, operator in enumerate(node.ops):
            if flipped := _FLIPPED.get(type(operator)):

                def compare(number: int = number, flipped: type[ast.cmpop] = flipped) -> str:
                    node.ops[number] = flipped()
                    return ast.unparse(node)

                yield compare
    elif isinstance(node, ast.BoolOp):

        def connect() -> str:
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            return ast.unparse(node)

        yield connect
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):

        def affirm() -> str:
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
            return ast.unparse(node)

        yield affirm
    elif isinstance(node, ast.BinOp) and type(node.op) in _CALCULATED and not _is_text(node):

        def calculate() -> str:
            node.op = _CALCULATED[type(node.op)]()
            return ast.unparse(node)

        yield calculate
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):

        def count() -> str:
            node.value = not node.value if isinstance(node.value, bool) else node.value + 1
            return ast.unparse(node)

        yield count
    # Who asks for a truth takes None for False, and that is mutated to True.
    elif isinstance(node, ast.Return) and ast.unparse(node.value or node) not in ("return", "None", "False"):

        def forget() -> str:
            node.value = ast.Constant(None)
            return ast.unparse(node)

        yield forget
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield | ast.YieldFrom):

        def keep() -> str:
            node.value = ast.Constant(None)
            return "pass"

        yield keep
    if isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, _DECIDED):

        def negate() -> str:
            node.test = ast.UnaryOp(ast.Not(), node.test)
            return ast.unparse(node).partition("\n")[0]

        yield negate


def _is_text(node: ast.BinOp) -> bool:
    """Types that are joined by ``|``, and strings: neither is arithmetic."""
    return any(isinstance(side, ast.JoinedStr) for side in ast.walk(node)) or any(
        isinstance(side, ast.Constant) and isinstance(side.value, str) for side in ast.walk(node)
    )


def survives(file: str, tree: ast.Module, change: Callable[[], str]) -> bool:
    """Whether the tests of a file pass with a mutant in its place; the tree stays as it is."""
    child = os.fork()
    if child == 0:
        try:
            change()
            os._exit(_run(file, ast.fix_missing_locations(tree)))
        except BaseException:
            os._exit(1)
    deadline = time.monotonic() + 10 * LIMIT_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run(file: str, tree: ast.Module) -> int:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
    # A counterexample will do: the simplest one is not looked for, and none is kept.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, database=None, deadline=None)
    hypothesis.settings.load_profile("mutants")
    name = file.removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(name, ROOT / file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    parent, _, last = name.rpartition(".")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        package = importlib.import_module(parent)
        sys.modules[name] = module
        exec(compile(tree, file, "exec"), module.__dict__)
        setattr(package, last, module)
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--noconftest", *TARGETS[file]]))


def main(files: list[str]) -> int:
    """Try all mutants of these files, or of all; the exit code."""
    os.chdir(ROOT)
    unexpected = 0
    for file in files or TARGETS:
        tree = ast.parse((ROOT / file).read_text())
        if not survives(file, tree, str):
            print(f"{file}: its tests do not pass as it is")
            return 1
        found = list(mutants(file, tree))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            alive = list(pool.map(partial(survives, file, tree), [mutant.change for mutant in found]))
        survivors = [mutant for mutant, lives in zip(found, alive, strict=True) if lives]
        new = [mutant for mutant in survivors if mutant.name not in EQUIVALENT]
        gone = {name for name in EQUIVALENT if name.startswith(f"{file} ")} - {one.name for one in survivors}
        named = len(survivors) - len(new)
        print(f"{file}: {len(found)} mutants, {len(new)} survive, {named} equivalent", flush=True)
        for mutant in new:
            print(f"  line {mutant.line}: {mutant.name.removeprefix(f'{file} ')}")
        for name in sorted(gone):
            print(f"  named as equivalent, and does not survive: {name}")
        unexpected += len(new) + len(gone)
    return int(unexpected > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
