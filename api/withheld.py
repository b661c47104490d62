"""Events as a caller may see them: an account's balance and its holder's address are not every caller's."""

from collections.abc import Iterable
from typing import Any

import msgspec

from api import access
from api.access import Caller
from operations.events import Recorded

OF_ACCOUNTS = frozenset(("balance_minor", "recipient"))
"""Fields of events that are about an account, and not about the withdrawal: who may not see accounts gets none."""

_DECODER, _ENCODER = msgspec.json.Decoder(), msgspec.json.Encoder()


def shown_to(caller: Caller, events: Iterable[Recorded]) -> list[Recorded]:
    """The same events, for a caller."""
    if access.ACCOUNTS in caller.permissions:
        return list(events)
    return [msgspec.structs.replace(one, payload=_without(one.payload)) for one in events]


def _without(payload: msgspec.Raw) -> msgspec.Raw:
    body: Any = _DECODER.decode(payload)
    return msgspec.Raw(_ENCODER.encode({name: value for name, value in body.items() if name not in OF_ACCOUNTS}))
