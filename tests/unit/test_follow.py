"""Streams of events: a query that fails ends none, and each ends with its withdrawal, once all is told."""

import asyncio
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import follow, statuses, store
from api.access import CLIENT, MAY, VIEWER, Caller
from api.callers import Callers
from api.follow import Follow
from api.problems import Problem
from contracts.events import (
    BalanceChecked,
    MoneyDeducted,
    MoneyRefunded,
    NotificationSent,
    PaymentFailed,
    PaymentProcessed,
    WithdrawalRejected,
)
from operations.endings import Ending
from operations.events import Recorded
from processors.saga.decide import decide
from tests.unit import messages

NOW = datetime(2026, 12, 1, tzinfo=UTC)
PAYMENT = UUID(int=1)
DEADLINE_S = 60.0
STREAMS = 20


class Readers:
    """A database: of each function what it answers, in order; the last one, or function of its place, stays."""

    def __init__(self, **answers):
        self._answers = answers

    async def run(self, _databases, read, *args):
        answers = self._answers[read.__name__]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer = answer(*args[:1]) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer


def run(main):
    asyncio.run(asyncio.wait_for(main, DEADLINE_S))


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(follow, "POLL_S", 0.0)
    monkeypatch.setattr(follow, "FAILED_S", 0.0)


def recorded(number, kind):
    return Recorded(number, PAYMENT, UUID(int=number), kind, msgspec.Raw(b"{}"), None, None, None, NOW)


def ending(number):
    payment_id = UUID(int=number)
    where = f"{number}-{payment_id}"
    return Ending(where, payment_id, "completed", "acc-1", 100, "USD", None, "WithdrawalCompleted", NOW, None)


def place(number):
    return ending(number).id


def test_a_query_that_fails_for_any_reason_is_made_again():
    async def main():
        ended = ending(2)
        away = [RuntimeError("a table is missing"), Problem("unavailable", "the database is away")]
        readers = Readers(
            latest=[*away, place(1)], endings_after=[[], lambda after: [ended] if after == place(1) else []]
        )
        async with aclosing(Follow(readers).endings(place(1), heartbeat_s=0.01)) as followed:
            async for found in followed:
                if found:
                    assert found == [ended]
                    return

    run(main())


@pytest.mark.parametrize("there", [7, 0], ids=["before the end there", "after the end there"])
def test_at_another_server_a_stream_ends_whose_place_is_none_there(there):
    async def main():
        other = Problem("invalid", "the place is none of this server's")
        polled, moved = asyncio.Event(), []

        def endings_after(after):
            if after == place(7):  # the poll's
                polled.set()
            return other if moved else []

        readers = Readers(latest=[lambda: place(there) if moved else place(7)], endings_after=[endings_after])
        async with aclosing(Follow(readers).endings(place(1), heartbeat_s=0.01)) as followed:
            assert await anext(followed) == []
            await polled.wait()
            await anext(followed)  # it has looked once more, as whoever begins does
            moved.append(True)
            with pytest.raises(Problem) as told:
                async for _ in followed:
                    pass
            assert told.value is other

    run(main())


def test_what_is_stored_between_the_last_look_and_the_end_is_sent_before_the_stream_ends():
    async def main():
        readers = Readers(
            events_after=[[recorded(1, "WithdrawalRequested")], []],
            status_of=[SimpleNamespace(finished=True)],
            events_of=[[recorded(2, "WithdrawalCompleted")]],
        )
        front = SimpleNamespace(follow=Follow(readers), readers=readers)
        caller = Caller("viewer", VIEWER, MAY[VIEWER])
        sent = [one async for one in statuses._of_one(front, caller, None, PAYMENT, 0)]
        assert b"WithdrawalCompleted" in sent[-1]

    run(main())


AWAY = Problem("unavailable", "the database is away")
CALLER = Caller("viewer", VIEWER, MAY[VIEWER])


@pytest.fixture
def no_poll(monkeypatch):
    """Followers look for themselves alone."""
    monkeypatch.setattr(Follow, "_poll", lambda _: asyncio.Event().wait())


@pytest.mark.usefixtures("no_poll")
def test_an_outage_ends_no_stream_of_a_withdrawal():
    async def main():
        readers = Readers(events_after=[AWAY, AWAY, [recorded(1, "MoneyDeducted")], []])
        async with aclosing(Follow(readers).withdrawal(PAYMENT, 0, heartbeat_s=0.01)) as followed:
            told = [await anext(followed) for _ in range(3)]
        assert told == [[], [], [recorded(1, "MoneyDeducted")]]

    run(main())


@pytest.mark.usefixtures("no_poll")
def test_an_outage_ends_a_stream_of_endings_only_before_it_has_begun(monkeypatch):
    monkeypatch.setattr(follow, "PAGE_MAX", 1)

    async def main():
        one, two, three = ending(1), ending(2), ending(3)
        readers = Readers(endings_after=[AWAY, [one], [two], AWAY, AWAY, [three], []])
        follows = Follow(readers)
        with pytest.raises(Problem):
            await anext(follows.endings(place(0), heartbeat_s=0.01))
        async with aclosing(follows.endings(place(0), heartbeat_s=0.01)) as followed:
            told = [await anext(followed) for _ in range(5)]
        assert told == [[one], [two], [], [], [three]]

    run(main())


class Pieces:
    """What a follower of a withdrawal is given, and how much of that it has taken."""

    def __init__(self, *pieces):
        self._pieces = pieces
        self.taken = 0

    async def withdrawal(self, *_):
        for piece in self._pieces:
            self.taken += 1
            yield piece
        pytest.fail("the stream goes on")


@pytest.mark.parametrize("failing", [{"status_of": AWAY}, {"events_of": AWAY}], ids=["status_of", "events_of"])
def test_an_outage_at_the_end_of_a_withdrawal_is_waited_for(failing):
    async def main():
        answers = {"status_of": [SimpleNamespace(finished=True)], "events_of": [[]]}
        for name, problem in failing.items():
            answers[name] = [problem, *answers[name]]
        pieces = Pieces([recorded(1, "WithdrawalCompleted")], [])
        front = SimpleNamespace(follow=pieces, readers=Readers(**answers))
        said = [one async for one in statuses._of_one(front, CALLER, None, PAYMENT, 0)]
        assert said[0].count(b"event: WithdrawalCompleted") == 1
        assert (pieces.taken, said[1:]) == (2, [b"", b""])

    run(main())


def request_of(payment_id, caller):
    return SimpleNamespace(
        payment_id=payment_id, caller=caller.name, account_id="acc-1", amount_minor=100, currency="USD"
    )


def ids_of(said):
    return [line.removeprefix("id: ") for line in said.decode().splitlines() if line.startswith("id: ")]


def test_endings_are_told_once_it_is_known_whose_they_are(monkeypatch):
    monkeypatch.setattr(statuses, "CHECK_S", 0.0)
    caller = Caller("shop", CLIENT, MAY[CLIENT])
    asked, taken = [], []

    async def of_payments(_, payment_ids):
        asked.append(payment_ids)
        await asyncio.sleep(0)  # others ask meanwhile
        if len(asked) <= 2:
            raise AWAY
        return {one: request_of(one, caller) for one in payment_ids}

    @asynccontextmanager
    async def connected():
        yield None

    first, second = [ending(1)], [ending(2), ending(3)]

    async def endings():
        taken.append(len(asked))
        yield second

    monkeypatch.setattr(store, "of_payments", of_payments)

    async def main():
        front = SimpleNamespace(callers=Callers(connected))

        async def ids_of_a_stream():
            said = [one async for one in statuses._of_all(front, caller, place(0), first, endings())]
            return [ids_of(one) for one in said]

        told = await asyncio.gather(*(ids_of_a_stream() for _ in range(STREAMS)))
        assert told == [[[place(0)], [], [], [place(1)], [place(2), place(3)]]] * STREAMS

    run(main())
    assert asked == [[UUID(int=1)]] * 3 + [[UUID(int=2), UUID(int=3)]]  # once for all, also after an outage
    assert taken == [3] * STREAMS  # while one is untold no further piece


STORIES = [
    [BalanceChecked, WithdrawalRejected, NotificationSent],
    [BalanceChecked, MoneyDeducted, PaymentProcessed, NotificationSent],
    [BalanceChecked, MoneyDeducted, PaymentFailed, MoneyRefunded, NotificationSent],
]


def stored_by(batches):
    """The types of the events that each batch stores, and whether the withdrawal has ended by then."""
    known, found = {}, []
    for batch in batches:
        done = decide(batch, known, NOW)
        known |= {standing.payment_id: standing for standing in done.standings}
        (standing,) = known.values()
        found.append(([type(one.event).__name__ for one in done.stored], standing.finished_at is not None))
    return found


@pytest.mark.parametrize("kinds", STORIES, ids=["rejected", "completed", "compensated"])
@given(data=st.data())
def test_a_stream_ends_with_the_piece_that_ends_its_withdrawal_whatever_the_order(kinds, data):
    request = messages.request(payment_id=PAYMENT)
    told = [messages.message(request), *(messages.message(messages.after(request, kind)) for kind in kinds)]
    order = data.draw(st.permutations(told))
    at_once = data.draw(st.integers(1, len(order)))
    batches = [order[first : first + at_once] for first in range(0, len(order), at_once)]
    found = stored_by(batches)
    pieces = Pieces(
        *(
            [recorded(10 * place + number, kind) for number, kind in enumerate(types, 1)]
            for place, (types, _) in enumerate(found)
        )
    )
    readers = Readers(status_of=[lambda _: SimpleNamespace(finished=found[pieces.taken - 1][1])], events_of=[[]])

    async def main():
        async for _ in statuses._of_one(SimpleNamespace(follow=pieces, readers=readers), CALLER, None, PAYMENT, 0):
            pass
        assert pieces.taken == 1 + [has_ended for _, has_ended in found].index(True)

    run(main())
