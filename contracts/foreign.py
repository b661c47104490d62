"""What it means that JSON of others cannot be read."""

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for it: it is malformed, of another type, not UTF-8 within a text, or nested too deeply."""
