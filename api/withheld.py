"""Events as a caller may see them: an account's balance and its holder's address are not every caller's.

Nor is a withdrawal with a caller's payment ID and other contents: programs that write to Kafka choose IDs, too.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from api import access
from api.access import Caller
from api.store import Stored
from operations.events import Recorded

OF_ACCOUNTS = frozenset(("balance_minor", "recipient"))
"""Fields of events that are about an account, and not about the withdrawal: who may not see accounts gets none."""

_DECODER, _ENCODER = msgspec.json.Decoder(), msgspec.json.Encoder()


def shown_to(caller: Caller, events: Iterable[Recorded], stored: Stored | None) -> list[Recorded]:
    """The same events, for a caller.

    Args:
        caller: who sees them.
        events: of a withdrawal.
        stored: its request, if that came through the API.
    """
    if access.ACCOUNTS in caller.permissions:
        return list(events)
    found = [(one, _DECODER.decode(one.payload)) for one in events]
    return [
        msgspec.structs.replace(one, payload=_without(body))
        for one, body in found
        if not caller.sees_only_its_own or (stored is not None and _is_of(body, stored))
    ]


def _is_of(body: dict[str, Any], stored: Stored) -> bool:
    """Whether an event is of the withdrawal that was requested, and not of another with its payment ID."""
    wanted = (stored.account_id, stored.amount_minor, stored.currency)
    return (body.get("account_id"), body.get("amount_minor"), body.get("currency")) == wanted


def _without(body: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(_ENCODER.encode({name: value for name, value in body.items() if name not in OF_ACCOUNTS}))
