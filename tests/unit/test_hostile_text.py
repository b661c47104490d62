"""Text that was made to be read again and again from each of its characters: it must be read in one go.

What reads it holds the interpreter meanwhile, health pages included, so here it does so in a process of its own:
each of these took hours, or would never have ended.
"""

import subprocess
import sys

import pytest

LIMIT_S = 60.0

STATE = "b'    a=b,' * 3 + (b' ' * 15 + b',') * 28 + b' ' * 15 + b'!'"
READERS = {
    "tracestate": f"""
from tracing import read_context
parent = b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
state = {STATE}
assert len(state) <= 512
assert read_context(parent, state).tracestate is None
assert read_context(parent, state[:-1]).tracestate is not None
""",
    "a string without an end": r"""
from contracts.events import ContractError, decode
try:
    decode("MoneyDeducted", b'{"a":["' + b'\\"' * 500_000)
except ContractError as error:
    assert "body is not JSON" in str(error), error
else:
    raise AssertionError
""",
    "many strings without an end": r"""
from contracts.events import ContractError, decode
for body in (b'{"a":["\\' + b'"\\' * 300_000, b'{"a":[' + b'"\n\\' * 300_000, b'{"a":[' + b'\\' * 900_000):
    try:
        decode("MoneyDeducted", body)
    except ContractError as error:
        assert "body is not JSON" in str(error), error
    else:
        raise AssertionError
""",
    "a time": """
from api.parameters import _ZONED
assert _ZONED.fullmatch("1T1" * 300_000) is None
assert _ZONED.fullmatch("1T1" * 300_000 + "Z") is not None
assert _ZONED.fullmatch("2026-12-01T10:00:00+01:00") is not None
assert _ZONED.fullmatch("2026-12-01") is None
""",
    "a column's default": """
from outbox_relay.debezium.values import _FUNCTION
assert _FUNCTION.match("coalesce(" + "a, " * 1_000) is None
assert _FUNCTION.match("coalesce(" + "a, " * 1_000 + "a)") is not None
""",
    "a log line": r"""
from contracts.redaction import hide
for line in ("://a:" * 200_000, 'password="' + '\\"password=' * 100_000, "://" + "a:" * 200_000):
    hide(line)
""",
    "an escaped U+0000": r"""
from contracts.events import _NUL
assert _NUL.search("\\" * 900_001 + "u000") is None
assert _NUL.search("\\" * 900_001 + "u0000") is not None
assert _NUL.search("\\" * 900_000 + "u0000") is None
""",
}


@pytest.mark.parametrize("code", READERS.values(), ids=READERS)
def test_no_text_is_read_more_than_once(code):
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT_S)
