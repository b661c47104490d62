"""How does a service wait for its database's answer? On the socket itself, and only then by way of the event loop.

A service has one batch under way, and an answer comes within a millisecond or few: for so short a wait the event
loop's bookkeeping is dear. Of a transaction for two withdrawals it took a fifth of the CPU time (280 of 1,350 µs).
A database that is slow, or waits for a lock, holds up nothing else: after :data:`PROMPT_MS` the event loop has it.
"""

import select
from typing import Any, TypeVar

from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

PROMPT_MS = 20
"""How long one answer may hold up the event loop, milliseconds."""

Result = TypeVar("Result")

_EVENTS = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}


class PromptConnection(AsyncConnection):
    """A psycopg connection that expects its answers at once."""

    async def wait(self, gen: PQGen[Result], *args: Any, **limits: Any) -> Result:
        """Take an operation of psycopg's to its end; as in the base class but for the way of waiting."""
        poll, socket = select.poll(), self.pgconn.socket
        try:
            state = next(gen)
            while True:
                poll.register(socket, _EVENTS[state])
                events = poll.poll(PROMPT_MS)
                if not events:
                    break
                state = gen.send(_ready(events[0][1]))
        except StopIteration as done:
            result: Result = done.value
            return result
        return await super().wait(_from(state, gen), *args, **limits)


def _ready(events: int) -> int:
    """What psycopg is told of a socket. An error is met by whoever reads."""
    readable = Ready.R if events & ~select.POLLOUT else 0
    return readable | (Ready.W if events & select.POLLOUT else 0)


def _from(state: Wait, gen: PQGen[Result]) -> PQGen[Result]:
    """The rest of an operation that has begun, and waits for ``state``."""
    try:
        while True:
            ready = yield state
            state = gen.send(ready)
    except StopIteration as done:
        result: Result = done.value
        return result
