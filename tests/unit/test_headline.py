"""The headline says whether money moves, and what is worst comes first."""

import pytest

from api.headline import BAD, OK, UNKNOWN, WARN, Backlog, Found, headline
from operations.withdrawals import OpenOnes


def some(*counts: tuple[str, int], silent: int = 0) -> list[OpenOnes]:
    return [OpenOnes(state, count, silent if place == 0 else 0) for place, (state, count) in enumerate(counts)]


@pytest.mark.parametrize(
    ("found", "tone", "words"),
    [
        (Found(), OK, "All is quiet"),
        (Found(ended_per_s=201.4), OK, "Money moves"),
        (Found(open=some(("paid", 3))), OK, "Money moves"),
        (Found(audit="holds"), OK, "All is quiet"),
        (Found(audit="failed"), OK, "All is quiet"),
        (
            Found(away={"payment": "does not run"}, open=some(("deducted", 312), ("requested", 5))),
            BAD,
            "Payment is away: 312 withdrawals wait",
        ),
        (
            Found(away={"account": "does not run"}, open=some(("requested", 1), ("compensating", 2), ("paid", 9))),
            BAD,
            "Account is away: 3 withdrawals wait",
        ),
        (
            Found(away={"notification": "x"}, open=some(("paid", 1))),
            BAD,
            "Notification is away: 1 withdrawal waits",
        ),
        (
            Found(away={"saga": "x"}, open=some(("paid", 2), ("requested", 2))),
            BAD,
            "Saga is away: 4 withdrawals wait",
        ),
        (Found(away={"Kafka": "x"}, open=some(("paid", 2))), BAD, "Kafka is away: 2 withdrawals wait"),
        (
            Found(away={"Kafka": "x"}, open=some(("accepted", 3), ("paid", 2))),
            BAD,
            "Kafka is away: 5 withdrawals wait",
        ),
        (
            Found(away={"saga": "does not run"}, open=some(("paid", 2)), unrecorded=40),
            BAD,
            "Saga is away: 42 withdrawals wait",
        ),
        (Found(away={"Kafka": "x"}, open=None), BAD, "Kafka is away: nothing moves"),
        (Found(away={"the relay": "x"}, unread_outboxes=7), BAD, "The relay is away: 7 events in outboxes"),
        (
            Found(away={"the payment database": "does not answer"}, open=some(("deducted", 2))),
            BAD,
            "The payment database is away: 2 withdrawals wait",
        ),
        (
            Found(away={"the saga database": "does not answer"}, open=None),
            BAD,
            "The saga database is away: nobody can say what waits",
        ),
        (Found(away={"the api database": "does not answer"}), BAD, "The api database is away"),
        (
            Found(open=some(("paid", 9), silent=3), ended_per_s=1.0),
            WARN,
            "Money moves, but 3 withdrawals are stuck",
        ),
        (Found(open=some(("paid", 1), silent=1)), WARN, "Money moves, but 1 withdrawal is stuck"),
        (Found(dead_letters=1), WARN, "All is quiet, but 1 dead letter needs a person"),
        (
            Found(backlogs=[Backlog("payment", 12_000, 200.0, 150.0)]),
            WARN,
            "Payment falls behind: 12,000 records to read",
        ),
        (Found(audit="does not hold", dead_letters=2), BAD, "The last audit does not hold"),
        (Found(open=None), WARN, "It is not known how many withdrawals are open"),
        (
            Found(unasked={"Kafka": "no right"}, open=some(("paid", 7)), ended_per_s=1.0),
            UNKNOWN,
            "It is not known whether money moves: Kafka could not be asked",
        ),
        (
            Found(unasked={"Kafka": "no right"}, away={"the relay": "x"}, unread_outboxes=7),
            BAD,
            "The relay is away: 7 events in outboxes",
        ),
        (Found(unasked={"Kafka": "no right"}, dead_letters=2), WARN, "2 dead letters need a person"),
        (Found(dead_rows=1), WARN, "All is quiet, but 1 dead row of outboxes needs a person"),
        (Found(paused=["account"], ended_per_s=1.0), WARN, "Money moves, but the account outbox is paused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_headline_is_the_worst_there_is(found, tone, words):
    said = headline(found)
    assert (said.tone, said.words) == (tone, words)


@pytest.mark.parametrize("lag", [(1_000, 200.0, 150.0), (12_000, 150.0, 200.0), (12_000, None, None)])
def test_a_backlog_that_is_small_or_gets_smaller_is_none(lag):
    assert headline(Found(backlogs=[Backlog("payment", *lag)])).tone == OK


def test_what_is_less_bad_is_said_after_it():
    said = headline(
        Found(
            away={"payment": "does not run", "the relay": "reads no outbox of saga"},
            open=some(("deducted", 312), silent=300),
            unread_outboxes=1,
            dead_letters=2,
            ended_per_s=4.26,
        )
    )
    assert said.words == "The relay is away: 1 event in outboxes"
    assert said.details == [
        "Nothing that the services decide gets any further.",
        "Payment is away: 312 withdrawals wait. It does not run.",
        "300 withdrawals are stuck.",
        "2 dead letters need a person.",
        "4.3 withdrawals a second come to their end.",
        "312 withdrawals are under way.",
    ]


def test_a_service_that_is_away_does_not_fall_behind_as_well():
    found = Found(away={"payment": "does not run"}, backlogs=[Backlog("payment", 12_000, 200.0, 0.0)])
    assert not [one for one in headline(found).details if "behind" in one]
