"""Every command says through the API what it says without: as text and as JSON, with its exit code."""

import json
import re
from uuid import UUID

import pytest
from typer.testing import CliRunner
from uuid_utils.compat import uuid7

from api.access import ADMIN, VIEWER
from api.credentials import list_keys
from cli.main import app
from cli.remote import AT_ONCE, NAMED
from cli.republish import LIMIT
from contracts.services import NAMES
from operations.dead_letters.letters import read_letters
from operations.dead_letters.warning import UNVERIFIED
from operations.outboxes import all_dead
from processors.account.accounts import open_accounts
from tests.conftest import WAIT_S, wait_until
from tests.integration.api.front import Front, ask, running_with_api
from tests.integration.api.test_commands import NOWHERE

WHY = ("--why", "a test of what commands print")
BOTH = (True, False)


@pytest.fixture(scope="module")
def run(front: Front):
    return runner(front)


def runner(front: Front):
    """Runs a command on the stack, or with the API's URL where databases, Kafka and Jaeger are nowhere."""
    everything = front.key("parity", ADMIN)
    ca = front.stack.data / "secrets" / "ca.crt"
    by_api = {**NOWHERE, "SSL_CERT_FILE": str(ca) if ca.exists() else None}
    own = {**front.stack.environment(), "SETTLE_JAEGER_URL": front.jaeger.url}

    def run(through_api: bool, *arguments: str, url: str = front.stack.state.api_url, key: str = everything):
        more, environment = (["--api", url], {**by_api, "SETTLE_API_KEY": key}) if through_api else ([], own)
        return CliRunner().invoke(app, [*arguments, *more], env={**environment, "COLUMNS": "120"})

    return run


class Things:
    """What the commands are about; those that act each have one of their own for either way."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.account = front.open_account()
        open_accounts(front.dsns["account"], ["acc-10", "acc-2"], 100, "USD")
        with front.http(front.key("shop-parity")) as shop:
            self.payment = ask(shop, self.account, "3.00").json()["payment_id"]
            self.rejected = ask(shop, self.account, "999999.00").json()["payment_id"]
        for payment_id in (self.payment, self.rejected):
            front.finished(UUID(payment_id))
        self.letter = self.new_letter()

    def new_letter(self, of: str = "a test") -> str:
        """An open dead letter."""
        body = json.dumps({"x": of}).encode()
        partition, offset = self.front.send(
            "account.events", body, "acc-1", id=str(uuid7()), eventType="MoneyDeducted"
        )
        name = f"account.events/{partition}@{offset}"
        wait_until(lambda: name in {one.id for one in read_letters(self.front.bootstrap)}, f"a dead letter {name}")
        return name

    def new_row(self, payload: str = "{}") -> str:
        """A dead row."""
        row_id = str(uuid7())
        self.front.execute(
            "payment",
            "INSERT INTO outbox_dead (id, aggregatetype, aggregateid, type, payload, position, reason) "
            f"VALUES ('{row_id}', 'no.such.requests', 'acc-1', 'MoneyDeducted', '{payload}', '0/1', 'too large')",
        )
        return row_id

    def new_gap(self) -> str:
        """A gap that nobody has acknowledged."""
        self.front.execute(
            "payment", "INSERT INTO gaps (topic, partition, first, until) VALUES ('parity', 0, 5, 7)"
        )
        return "parity"


@pytest.fixture(scope="module")
def things(front: Front):
    found = Things(front)
    found.new_row()
    found.new_gap()
    yield found
    # The audits of other tests would find them.
    front.execute("payment", "DELETE FROM outbox_dead WHERE aggregatetype = 'no.such.requests'")
    front.execute("payment", "DELETE FROM gaps WHERE topic = 'parity'")


LOOKS = [
    ("status", "{payment}"),
    ("status", "{rejected}"),
    ("accounts", "list"),
    ("accounts", "list", "--limit", "3"),
    ("accounts", "show", "{account}"),
    ("accounts", "ledger", "{account}"),
    ("accounts", "ledger", "{account}", "--limit", "1200"),
    ("stuck", "--older-than", "0"),
    ("dead-letters", "list"),
    ("dead-letters", "list", "--all", "--limit", "2"),
    ("dead-letters", "list", "{letter}"),
    ("dead-letters", "list", "--reason", "nothing has this reason"),
    ("dead-letters", "show", "{letter}"),
    ("gaps", "list"),
    ("outbox", "dead", "list"),
    ("outbox", "status"),
    ("republish", "--dry-run", "--payment", "{payment}", "--every-event", "--quiet", "0"),
    ("republish", "--dry-run", "--quiet", "0", "--since", "2020-01-01"),
    ("republish", "--dry-run", "--quiet", "0", "--lost-requests"),
    ("api-keys", "list"),
]
"""Each also with ``--json``."""

LOOKS_WITHOUT_JSON = [
    ("trace", "{payment}"),
    ("trace", "check", "--last", "2"),
    ("trace", "check", "--last", "2", "--sampled"),
    ("topics", "--check"),
]

WRONG = [
    ("status", "00000000-0000-0000-0000-000000000007"),
    ("accounts", "show", "acc-none"),
    ("accounts", "ledger", "acc-none"),
    ("dead-letters", "show", "a/1@2"),
    ("dead-letters", "redrive", "a/1@2", *WHY),
    ("outbox", "dead", "discard", "no-such-row", *WHY),
    ("outbox", "slot", "drop", "nobody", *WHY),
    ("trace", "00000000-0000-0000-0000-000000000007"),
    ("cancel", "00000000-0000-0000-0000-000000000007", *WHY),
    ("cancel", "{payment}", *WHY),
    ("nudge", "{payment}", *WHY),
    ("republish", "--limit", str(LIMIT + 1), *WHY),
    ("republish", "--lost-requests", "--payment", "{payment}", *WHY),
    ("api-keys", "revoke", "no-such-key", *WHY),
]
"""What cannot be had either way: nothing is printed but a line of complaint."""


def settled(front: Front) -> None:
    """Nothing is under way: outboxes change while the relay cleans up."""

    def is_empty(service: str) -> bool:
        return front.query(service, "SELECT count(*) FROM outbox") == [(0,)]

    wait_until(lambda: all(map(is_empty, NAMES)), "outboxes are empty")


def filled(arguments, things: Things) -> list[str]:
    names = {name: str(value) for name, value in vars(things).items()}
    return [argument.format(**names) for argument in arguments]


def printed(done):
    return done.exit_code, done.stdout


@pytest.mark.parametrize(
    "arguments",
    [*((*one, *more) for one in LOOKS for more in ((), ("--json",))), *LOOKS_WITHOUT_JSON],
    ids=" ".join,
)
def test_what_is_looked_at_looks_the_same(front: Front, things: Things, run, arguments):
    settled(front)
    wanted = filled(arguments, things)

    def alike():
        own, by_api = run(False, *wanted), run(True, *wanted)
        assert (own.exit_code, own.exception) == (0, None), own.output
        # The log goes on while somebody looks, so how far it is may differ once.
        return own if printed(own) == printed(by_api) else None

    own = wait_until(alike, "both say the same")
    assert own.stdout
    if "--json" in arguments:
        json.loads(own.stdout)


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_what_cannot_be_had_is_one_line_and_the_same_exit_code(things: Things, run, arguments):
    wanted = filled(arguments, things)
    by_api = run(True, *wanted)
    own = run(False, *[one for one in wanted if one not in WHY])
    assert (own.exit_code, own.stdout) == (by_api.exit_code, by_api.stdout) == (2, "")
    assert by_api.stderr.count("\n") == own.stderr.count("\n") == 1


def log_has(front: Front, action: str) -> bool:
    return bool(front.query("api", "SELECT 1 FROM operator_log WHERE caller = 'parity' AND action = %s", action))


def test_dead_letters_are_redriven_and_discarded_alike(front: Front, things: Things, run):
    for act, said in (("redrive", "redriven"), ("discard", "discarded")):
        for through_api in BOTH:
            why = WHY if through_api else ()
            name = things.new_letter(f"{act} {through_api}")
            done = run(through_api, "dead-letters", act, name, *why)
            assert printed(done) == (0, f"1 dead letter {said}\n"), done.stderr
            if act == "discard":
                again = run(through_api, "dead-letters", act, name, *why)
                assert printed(again) == (2, "0 dead letters discarded\n")
                assert f"dead letter {name}: it was discarded already, at " in again.stderr
            shown = json.loads(run(True, "dead-letters", "list", name, "--all", "--json").stdout)
            assert [one["state"] for one in shown] == [said]
        assert log_has(front, f"{act} dead letters")


def test_what_cannot_be_verified_is_sent_alike_once_that_is_confirmed(front: Front, run):
    fields = {"dlq.topic": "account.events", "dlq.partition": "0"}
    for number, through_api in enumerate(BOTH):
        name, why = f"account.events/0@{8_000_000 + number}", WHY if through_api else ()
        front.send("account.events.dlq", b"{}", "acc-1", **fields, **{"dlq.offset": name.partition("@")[2]})
        wait_until(lambda name=name: name in {one.id for one in read_letters(front.bootstrap)}, "it is there")
        command = ("dead-letters", "redrive", name, *why)
        refused = run(through_api, *command)
        assert printed(refused) == (2, "0 dead letters redriven\n")
        why_not = "unverified: its original is gone from account.events"
        assert refused.stderr == f"settle: dead letter {name}: {why_not}\n"
        asked = run(through_api, *command, "--unverified")
        assert (asked.exit_code, asked.stderr.count("pass --yes")) == (2, 1)
        assert UNVERIFIED in " ".join(asked.stdout.split())
        done = run(through_api, *command, "--unverified", "--yes")
        assert printed(done) == (0, "1 dead letter redriven\n"), done.stderr
    assert log_has(front, "redrive dead letters, also unverified")


def test_more_dead_letters_than_one_request_names_are_listed_and_acted_on_alike(front: Front, run):
    mark, each = f"m{uuid7().hex}", NAMED + 1
    names = [f"account.events/0@{6_000_000 + number}" for number in range(2 * each)]
    for name in names:
        fields = {"dlq.topic": "account.events", "dlq.partition": "0", "dlq.reason": mark}
        front.send("account.events.dlq", b"{}", mark, **fields, **{"dlq.offset": name.partition("@")[2]})
    wait_until(lambda: {*names} <= {one.id for one in read_letters(front.bootstrap)}, "they are there")
    discarded = run(False, "dead-letters", "discard", names[0], names[-1])
    assert discarded.exit_code == 0, discarded.stderr
    for more in (
        (),
        ("--all",),
        ("--limit", "3"),
        ("--json",),
        ("--all", "--json"),
        ("--topic", "payment.events"),
    ):
        own, by_api = (run(way, "dead-letters", "list", *names, names[5], *more) for way in BOTH)
        assert printed(own) == printed(by_api)
        assert own.exit_code == 0
    for through_api, chosen in zip(BOTH, (names[:each], names[each:]), strict=True):
        done = run(through_api, "dead-letters", "discard", *chosen, *(WHY if through_api else ()))
        assert printed(done) == (2, f"{each - 1} dead letters discarded\n")
        assert done.stderr.count("it was discarded already, at ") == 1
        unknown = run(through_api, "dead-letters", "discard", *chosen, "a/1@2", *(WHY if through_api else ()))
        assert printed(unknown) == (2, "")
        assert "no dead letter a/1@2" in unknown.stderr


def test_a_filter_is_shown_confirmed_and_sent_as_the_ids_that_it_names(things: Things, run, front: Front):
    mark = f"m{uuid7().hex}"
    fields = {"dlq.topic": "account.events", "dlq.partition": "0", "dlq.reason": mark}
    for through_api in BOTH:
        why = WHY if through_api else ()
        for number in range(3):
            front.send("account.events.dlq", b"{}", mark, **fields, **{"dlq.offset": str(9_000_000 + number)})
        command = ("dead-letters", "discard", "--reason", mark, *why)

        def three(command=command, through_api=through_api):
            refused = run(through_api, *command)
            return refused if "to discard 3 dead letters" in refused.stderr else None

        # Nobody is there to be asked.
        refused = wait_until(three, "they are there")
        assert refused.exit_code == 2
        assert mark in refused.stdout
        done = run(through_api, *command, "--yes")
        assert printed(done) == (0, "3 dead letters discarded\n"), done.stderr
        fields["dlq.partition"] = "1"


def test_dead_rows_are_retried_and_discarded_alike(front: Front, things: Things, run):
    for through_api in BOTH:
        why = WHY if through_api else ()
        row = things.new_row()
        done = run(through_api, "outbox", "dead", "discard", row, *why)
        assert printed(done) == (0, "1 row discarded\n"), done.stderr
        back = things.new_row("no JSON")
        refused = run(through_api, "outbox", "dead", "retry", back, *why)
        assert printed(refused) == (2, "0 rows put back\n")
        assert "not put back" in refused.stderr
        assert run(through_api, "outbox", "dead", "discard", back, *why).exit_code == 0
    things.new_row()
    done = run(True, "outbox", "dead", "discard", "--all", "--yes", *WHY)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].endswith(" discarded")
    assert all_dead({"payment": front.dsns["payment"]}) == []
    assert log_has(front, "discard dead rows")
    assert log_has(front, "retry dead rows")


def test_a_slot_that_is_in_use_or_gone_stays_as_it_is(front: Front, run):
    for through_api in BOTH:
        done = run(through_api, "outbox", "slot", "drop", "payment", *(WHY if through_api else ()))
        assert printed(done) == (2, ""), done.stderr
    assert log_has(front, "drop slot")


def test_gaps_are_acknowledged_alike(front: Front, things: Things, run):
    front.execute("payment", "DELETE FROM gaps")
    for through_api in BOTH:
        front.execute("payment", "DELETE FROM gaps")
        things.new_gap()
        unasked = run(through_api, "gaps", "acknowledge", "--note", "they were read from a copy")
        assert unasked.exit_code == 2
        assert unasked.stderr == "settle: to acknowledge 1 gap without a terminal to ask at, pass --yes\n"
        done = run(through_api, "gaps", "acknowledge", "--note", "they were read from a copy", "--yes")
        assert printed(done) == (0, "1 gap acknowledged\n"), done.stderr
    assert log_has(front, "acknowledge gaps")


def test_accounts_are_opened_alike(front: Front, run):
    for through_api in BOTH:
        why = WHY if through_api else ()
        names = [f"acc-{uuid7()}" for _ in range(2)]
        done = run(through_api, "accounts", "open", *names, "--balance", "1500.00", *why)
        assert printed(done) == (0, "2 accounts opened with 1,500.00 USD\n"), done.stderr
        again = run(through_api, "accounts", "open", *names, "--currency", "EUR", "--balance", "1", *why)
        assert printed(again) == (2, "0 accounts opened with 1.00 EUR; 2 open already\n")
        assert f"open already, but not in EUR: {names[0]} (USD), {names[1]} (USD)" in again.stderr
    assert log_has(front, "open accounts")


def test_a_withdrawal_is_asked_for_and_followed_alike(front: Front, things: Things, run):
    words, fields = [], []
    for through_api in BOTH:
        patience = ("--wait", "--timeout", f"{WAIT_S:g}")
        done = run(through_api, "request", "--account", things.account, "--amount", "2.00", *patience)
        assert done.exit_code == 0, done.stderr
        # Without IDs, times of steps, and their order: which topic is first to tell of its event differs.
        lines = [re.sub(r"[0-9a-f-]{32,}|[+-][0-9.]+", "", line).split() for line in done.stdout.splitlines()]
        words.append(sorted(lines))
        assert done.stdout.endswith("completed (by WithdrawalCompleted)\n")
        named = str(uuid7())
        arguments = ["request", "--account", things.account, "--amount", "2.00", "--payment-id", named, "--json"]
        found = json.loads(run(through_api, *arguments).stdout)
        assert (found["payment_id"], found["topic"]) == (named, "withdrawal.requests")
        fields.append(list(found))
        again = json.loads(run(through_api, *arguments, *patience).stdout)
        assert (again["payment_id"], again["state"]) == (named, "completed")
        assert run(through_api, "request", "--account", "a b", "--amount", "2.00").exit_code == 2
        assert run(through_api, "request", "--account", "acc-1", "--amount", "0").exit_code == 2
    assert words[0] == words[1]
    assert fields[0] == fields[1]


def test_events_are_republished_alike(front: Front, things: Things, run):
    said = []
    for through_api in BOTH:
        settled(front)
        arguments = ("republish", "--payment", things.payment, "--every-event", "--quiet", "0", "--yes")
        done = run(through_api, *arguments, *(WHY if through_api else ()))
        assert done.exit_code == 0, done.stderr
        said.append([line for line in done.stdout.splitlines() if " yet to read" not in line])
    assert said[0] == said[1]
    assert " of 1 withdrawal handed to the relay" in said[0][-1]
    assert log_has(front, "republish")


def test_more_withdrawals_than_one_request_names_are_looked_for_alike(front: Front, things: Things, run):
    settled(front)
    payment_ids = [things.payment, things.rejected, *(str(UUID(int=number)) for number in range(AT_ONCE))]
    named = [word for one in payment_ids for word in ("--payment", one)]
    for more in ((), ("--json",), ("--limit", "1")):
        command = ("republish", "--dry-run", *named, "--every-event", "--quiet", "0", *more)
        own, by_api = (run(way, *command) for way in BOTH)
        assert printed(own) == printed(by_api)
        assert (own.exit_code, own.stderr) == (0, "")
    assert "these are of the first 1 withdrawals" in own.stdout


def test_keys_are_made_and_revoked_alike(front: Front, run):
    for through_api in BOTH:
        why = WHY if through_api else ()
        caller = f"made-{through_api}"
        made = run(through_api, "api-keys", "create", caller, "--role", "viewer", "--days", "1", *why)
        key_id = made.stdout.split("_")[1]
        (key,) = [one for one in list_keys(front.dsns["api"]) if one.key_id == key_id]
        assert (key.caller, key.role) == (caller, "viewer")
        assert round((key.expires_at - key.created_at).total_seconds()) == 86_400
        assert printed(run(through_api, "api-keys", "revoke", key_id, *why)) == (0, f"{key_id} is revoked\n")
    assert log_has(front, "create key")
    assert log_has(front, "revoke key")


ACTS = [
    ("cancel", "{payment}"),
    ("nudge", "{payment}"),
    ("accounts", "open", "acc-7"),
    ("dead-letters", "redrive", "{letter}"),
    ("dead-letters", "discard", "{letter}"),
    ("outbox", "dead", "retry", "--all"),
    ("outbox", "dead", "discard", "--all"),
    ("outbox", "slot", "drop", "payment"),
    ("republish", "--payment", "{payment}", "--every-event", "--quiet", "0", "--yes"),
    ("api-keys", "create", "somebody"),
    ("api-keys", "revoke", "something"),
    ("audit",),
]


@pytest.mark.parametrize("arguments", ACTS, ids=" ".join)
def test_who_acts_through_the_api_says_why(things: Things, run, arguments):
    done = run(True, *filled(arguments, things))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "settle: with --api, say why: --why 'the bank is back'\n"


EVERY = [*LOOKS, *LOOKS_WITHOUT_JSON, *((*one, *WHY) for one in ACTS), ("gaps", "acknowledge", *WHY)]
EVERY += [("request", "--account", "acc-1", "--amount", "1.00")]


@pytest.mark.parametrize("arguments", EVERY, ids=" ".join)
def test_a_wrong_key_or_url_and_an_api_that_is_away_are_one_line(front: Front, things: Things, run, arguments):
    wanted = filled(arguments, things)
    for code, said, wrong in (
        (2, "(SETTLE_API_KEY)", {"key": "settle_0_forged"}),
        (2, "the path is unknown", {"url": f"{front.stack.state.api_url}/nothing"}),
        (2, "--api nonsense is not a URL such as ", {"url": "nonsense"}),
        (1, "the API at http://127.0.0.1:9 does not answer: ", {"url": "http://127.0.0.1:9"}),
    ):
        done = run(True, *wanted, **wrong)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (code, "", 1)
        assert said in done.stderr


@pytest.mark.parametrize("arguments", ACTS, ids=" ".join)
def test_who_only_looks_does_nothing(front: Front, things: Things, run, arguments):
    before = front.query("api", "SELECT count(*) FROM operator_log")
    things.new_row()
    yes = ("--yes",) if "--all" in arguments else ()
    done = run(True, *filled(arguments, things), *WHY, *yes, key=front.key("eve", VIEWER))
    assert done.exit_code == 2
    assert front.query("api", "SELECT count(*) FROM operator_log") == before


def test_a_withdrawal_is_cancelled_alike(tmp_path):
    # Every payment waits for its second attempt.
    waiting = {"SETTLE_PROVIDER_OUTAGE_SHARE": "1", "SETTLE_RETRY_BACKOFF_S": "[3600]"}
    with running_with_api(tmp_path / "data", **waiting) as front:
        run = runner(front)
        account = front.open_account()
        for through_api in BOTH:
            payment_id = front.client.request(account, "2.00").payment_id
            wait_until(
                lambda of=payment_id: (found := front.status(of)) and found.state == "deducted", "it is deducted"
            )

            def alike(of=payment_id):
                shown = [run(way, "status", str(of), "--json").stdout for way in BOTH]
                # The first attempt may be made between the two.
                return shown[0] if shown[0] == shown[1] else None

            assert json.loads(wait_until(alike, "both say the same"))["waiting_for"]

            def nudged_alike(of=payment_id):
                nudged = [printed(run(way, "nudge", str(of), *(WHY if way else ()))) for way in BOTH]
                # The first attempt may be made between the two.
                return nudged[0] if nudged[0] == nudged[1] else None

            code, said = wait_until(nudged_alike, "both say the same")
            assert (code, said.splitlines()[0]) == (0, "republished on account.events: MoneyDeducted")
            why = WHY if through_api else ()
            done = run(through_api, "cancel", str(payment_id), "--timeout", f"{WAIT_S:g}", *why)
            assert done.exit_code == 0, done.stderr
            assert re.fullmatch(rf"cancelled: 2.00 USD (is back on|goes back to) {account}\n", done.stdout)
            front.finished(payment_id)
            # The customer is told of the refund after the end, and the audit looks for that event too.
            wait_until(lambda of=payment_id: "NotificationSent" in front.events(of), "the customer is told")
        front.audit()
        assert log_has(front, "cancel")
