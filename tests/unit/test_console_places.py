"""Which page a thing has that an audit or the operator log names; whatever it is called."""

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.console.places import TARGETS_MAX, Finding, Piece, Target, account_path, findings, pieces, targets

PAYMENT = "01a20aeb-4358-716a-b291-9134760df1f7"
OF_IT = f"/console/withdrawals/{PAYMENT}"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_an_accounts_path_names_it_and_no_other(name):
    parts = urlsplit(account_path(name))
    assert not parts.fragment
    if parts.query:
        assert parts.path == "/console/accounts"
        assert parse_qs(parts.query, keep_blank_values=True) == {"id": [name]}
    else:
        assert parts.path == f"/console/accounts/{name}"
        assert name not in (".", "..")
        assert name.isascii()


@pytest.mark.parametrize("name", [".", "..", "a/b", "", "a b", "a%2Fb", "a?b", "a#b"])
def test_what_is_no_segment_of_a_path_is_in_the_query(name):
    assert account_path(name).startswith("/console/accounts?id=")


def test_a_finding_leads_to_what_it_is_about():
    assert findings("ledger", f"{PAYMENT}: booked: twice; and 3 more") == [
        Finding(PAYMENT, OF_IT, "booked: twice"),
        Finding("", None, "and 3 more"),
    ]
    assert findings("balances", "acc-1: off by 7; a/b: no account") == [
        Finding("acc-1", "/console/accounts/acc-1", "off by 7"),
        Finding("a/b", "/console/accounts?id=a%2Fb", "no account"),
    ]
    assert findings("consumed", "payment: 7 records of account.events") == [
        Finding("payment", None, "7 records of account.events")
    ]


@pytest.mark.parametrize(
    ("action", "subject", "result", "wanted"),
    [
        ("nudge", PAYMENT, None, [Target(PAYMENT, OF_IT)]),
        ("cancel", PAYMENT, {}, [Target(PAYMENT, OF_IT)]),
        ("nudge", "../settings", None, [Target("../settings")]),
        ("audit", {"wait_s": 0}, {"audit_id": PAYMENT}, [Target(PAYMENT, f"/console/audit/{PAYMENT}")]),
        ("audit", {"wait_s": 0}, {"problem": "audit-running"}, [Target("not begun")]),
        ("open accounts", {"account_ids": ["a"]}, None, [Target("a", "/console/accounts/a")]),
        (
            "create key",
            {"caller": "shop", "role": "client"},
            {"key_id": "7"},
            [Target("7 of shop, client", "/console/settings")],
        ),
        ("revoke key", "7", None, [Target("7", "/console/settings")]),
        (
            "redrive dead letters",
            ["account.events/0@7"],
            None,
            [Target("account.events/0@7", "/console/dead-letters/account.events/0%407")],
        ),
        ("republish", {"payment_ids": [PAYMENT]}, None, [Target(PAYMENT, OF_IT)]),
        ("republish", {"payment_ids": None}, None, [Target("every withdrawal")]),
        ("drop slot", "payment", None, [Target("payment")]),
        ("retry dead rows", [{"service": "saga", "number": 7}], None, [Target("service saga, number 7")]),
        ("what there is not yet", {"of": [1, None]}, 7, [Target("of [1, None]")]),
    ],
)
def test_an_action_leads_to_what_it_was_done_to(action, subject, result, wanted):
    assert targets(action, subject, result) == (wanted, 0)


def test_of_many_things_the_first_are_shown_and_the_others_counted():
    shown, more = targets("open accounts", {"account_ids": [str(one) for one in range(1_000)]}, None)
    assert [one.name for one in shown] == [str(one) for one in range(TARGETS_MAX)]
    assert more == 1_000 - TARGETS_MAX


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda one: st.lists(one) | st.dictionaries(st.text(), one),
)


@given(
    st.sampled_from(["nudge", "audit", "open accounts", "create key", "revoke key", "republish", "x"]),
    _JSON,
    _JSON,
)
def test_whatever_was_stored_can_be_shown(action, subject, result):
    shown, more = targets(action, subject, result)
    assert len(shown) <= TARGETS_MAX
    assert more >= 0


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("it waits", [Piece("it waits")]),
        (
            f"the saga service refused it; `settle dead-letters show {PAYMENT}` says why",
            [
                Piece("the saga service refused it; "),
                Piece("its dead letter", f"/console/dead-letters?state=all&payment_id={PAYMENT}"),
                Piece(" says why"),
            ],
        ),
        ("`settle outbox dead list` says why", [Piece(""), Piece("the page of outboxes", "/console/outboxes")]),
        ("`settle topics` creates it", [Piece(""), Piece("settle topics", is_command=True), Piece(" creates it")]),
        (
            "`settle dead-letters show a&b=c`",
            [Piece(""), Piece("its dead letter", "/console/dead-letters?state=all&payment_id=a%26b%3Dc")],
        ),
        ("a `b", [Piece("a "), Piece("b", is_command=True)]),
    ],
)
def test_what_a_sentence_tells_to_type_is_the_page_that_does_the_same(sentence, expected):
    assert list(pieces(sentence))[: len(expected)] == expected
