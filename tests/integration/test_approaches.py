"""Every approach keeps the same promises; where its known trouble is the point, the trouble is asserted."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psycopg
import pytest

from contracts.failpoints import EXIT_CODE
from lab.approaches.withdrawal import COMPENSATED, COMPLETED, PUBLISHED, REJECTED, PaymentIdReusedError
from lab.comparison import caller
from lab.comparison.books import balances, payments, verdict
from lab.comparison.sites import Site, site
from lab.comparison.specs import SPECS
from producers.requests import new_request
from tests.conftest import WAIT_S, Settle, wait_until
from tests.integration.approaches import HUNDRED, REFUSED, account, request, settled, withdraw

SOUND = [name for name in SPECS if name != "naive"]
REJECTS_REFUSED = ["monolith", "two_phase_commit"]
COMPENSATES_REFUSED = ["saga", "event_sourcing"]
OUTBOXES = ["outbox_polling", "outbox_wal"]


@pytest.fixture(scope="module")
def sites(settle: Settle) -> Iterator[dict[str, Site]]:
    """Every approach, running on the shared stack."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(site(name, settle.stack, poll_every_s=0.1)) for name in SPECS}


@pytest.fixture
def place(request, sites: dict[str, Site]) -> Site:
    return sites[request.param]


def each(*names: str):
    return pytest.mark.parametrize("place", names, indirect=True)


@each(*SOUND)
def test_a_withdrawal_takes_the_money_once_and_pays_it_once(place: Site):
    name = account(place)
    with closing(place.client()) as client:
        assert withdraw(client, request(name)).state in (COMPLETED, PUBLISHED)
    settled(place, name, HUNDRED)


@each(*SOUND)
def test_a_request_sent_five_times_at_once_and_once_more_is_one_withdrawal(place: Site):
    name = account(place)
    wanted = request(name)

    def ask(_: int) -> None:
        with closing(place.client()) as client:
            withdraw(client, wanted)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(ask, range(5)))
    ask(0)
    settled(place, name, HUNDRED)
    assert len(payments(place.books, [name])) == 1


@each(*[name for name in SOUND if name != "saga"])
def test_a_payment_id_with_other_contents_is_refused(place: Site):
    name = account(place)
    wanted = request(name)
    with closing(place.client()) as client:
        withdraw(client, wanted)
        with pytest.raises(PaymentIdReusedError):
            client.withdraw(new_request(name, amount_minor=2 * HUNDRED, payment_id=wanted.payment_id))
    settled(place, name, HUNDRED)


@each(*SOUND)
def test_more_than_there_is_is_rejected_and_changes_nothing(place: Site):
    name = account(place, HUNDRED - 1)
    with closing(place.client()) as client:
        wanted = request(name)
        assert withdraw(client, wanted) == (REJECTED, "insufficient_funds")
        assert client.finished(wanted.payment_id) == (REJECTED, "insufficient_funds")
    settled(place, name, 0)


@each(*SOUND)
def test_an_unknown_account_is_rejected(place: Site):
    with closing(place.client()) as client:
        assert withdraw(client, request("acc-nobody")) == (REJECTED, "unknown_account")


@each(*REJECTS_REFUSED)
def test_a_refused_payment_takes_nothing(place: Site):
    name = account(place)
    with closing(place.client()) as client:
        wanted = request(name, REFUSED)
        assert withdraw(client, wanted) == (REJECTED, "declined")
        assert client.withdraw(wanted) == (REJECTED, "declined")
    settled(place, name, 0)


@each(*COMPENSATES_REFUSED)
def test_a_refused_payment_is_compensated_once(place: Site):
    name = account(place)
    with closing(place.client()) as client:
        wanted = request(name, REFUSED)
        assert withdraw(client, wanted) == (COMPENSATED, "declined")
        assert withdraw(client, wanted) == (COMPENSATED, "declined")
    settled(place, name, 0)


@each(*OUTBOXES)
def test_an_outbox_alone_does_not_bring_refused_money_back(place: Site):
    name = account(place)
    with closing(place.client()) as client:
        assert withdraw(client, request(name, REFUSED)).state == PUBLISHED
        # The payment service has decided on both once it has paid the second.
        withdraw(client, request(name))
    wait_until(lambda: payments(place.books, [name]), "the second is paid")
    assert verdict(place.books, [name], HUNDRED).lost_minor == REFUSED


@each("monolith", "two_phase_commit", "event_sourcing", "outbox_polling")
def test_a_client_killed_anywhere_leaves_nothing_lost_or_doubled(place: Site):
    wanted = {point: request(account(place)) for point in place.spec.failpoints}
    place.die(wanted)
    place.recover()
    # The callers have had no answer, so they ask again.
    with closing(place.client()) as client:
        for one in wanted.values():
            assert withdraw(client, one).state in (COMPLETED, PUBLISHED)
    for one in wanted.values():
        settled(place, one.account_id, HUNDRED)
        assert len(payments(place.books, [one.account_id])) == 1


@each(*SOUND)
def test_many_clients_on_one_account_never_take_more_than_there_is(place: Site):
    name = account(place, 5 * HUNDRED)
    lowest = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            lowest.append(balances(place.books, [name])[0][1])

    def ask(_: int) -> str:
        with closing(place.client()) as client:
            return withdraw(client, request(name)).state

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            states = list(pool.map(ask, range(12)))
    finally:
        done.set()
        watcher.join()
    assert min(lowest) >= 0
    assert sorted(states, key=lambda state: state == REJECTED)[5:] == [REJECTED] * 7
    settled(place, name, 5 * HUNDRED)
    assert balances(place.books, [name]) == [(5 * HUNDRED, 0)]


def test_a_worker_killed_after_publishing_publishes_again_and_nothing_is_paid_twice(sites: dict[str, Site]):
    place = sites["outbox_polling"]
    name = account(place)
    dying = place.start_worker("polling worker", "outbox.published")
    wanted = request(name)
    with closing(place.client()) as client:
        client.withdraw(wanted)
        assert dying.wait_dead(WAIT_S) == EXIT_CODE
        assert client.finished(wanted.payment_id) is None
        place.start_worker("polling worker")
        assert withdraw(client, wanted).state == PUBLISHED
    settled(place, name, HUNDRED)
    assert len(payments(place.books, [name])) == 1


def test_rows_committed_out_of_order_are_all_published(sites: dict[str, Site]):
    """A worker that remembers the highest number would pass over the transaction that took a lower one."""
    place = sites["outbox_polling"]
    slow, fast = account(place), account(place)
    with closing(place.client()) as client, psycopg.connect(place.addresses["account"]) as late:
        (first,) = late.execute("SELECT uuidv7()").fetchone()
        wanted = request(fast)
        assert withdraw(client, wanted).state == PUBLISHED
        behind = request(slow)
        late.execute(
            """
            WITH deducted AS (
                UPDATE accounts SET balance_minor = balance_minor - %(minor)s WHERE account_id = %(account)s)
            INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
            SELECT %(id)s, %(aggregate)s, %(account)s, 'MoneyDeducted',
                (payload::jsonb || jsonb_build_object(
                    'account_id', %(account)s::text, 'payment_id', %(payment)s::text))::json
            FROM outbox WHERE payload->>'payment_id' = %(other)s
            """,
            {
                "id": first,
                "minor": HUNDRED,
                "account": slow,
                "aggregate": place.addresses["aggregate"],
                "payment": behind.payment_id,
                "other": str(wanted.payment_id),
            },
        )
        late.commit()
        wait_until(lambda: client.finished(behind.payment_id), "the row that was late is published")
    settled(place, slow, HUNDRED)


def test_the_naive_way_loses_money_when_its_client_dies(sites: dict[str, Site]):
    place = sites["naive"]
    name = account(place)
    wanted = request(name)
    place.die({"naive.deducted": wanted})
    with closing(place.client()) as client:
        client.withdraw(wanted)
    wait_until(lambda: payments(place.books, [name]), "paid")
    assert verdict(place.books, [name], HUNDRED).lost_minor == HUNDRED


def test_the_naive_way_doubles_a_request_that_is_repeated(sites: dict[str, Site]):
    place = sites["naive"]
    name = account(place)
    wanted = request(name)
    with closing(place.client()) as client:
        client.withdraw(wanted)
        client.withdraw(wanted)
    wait_until(lambda: len(payments(place.books, [name])) == 2, "paid twice")
    assert verdict(place.books, [name], HUNDRED).doubled_minor == HUNDRED


def test_the_naive_way_pays_twice_when_its_payment_service_dies(sites: dict[str, Site]):
    place = sites["naive"]
    name = account(place)
    dying = place.start_worker("naive payment service", "outbox.paid")
    with closing(place.client()) as client:
        client.withdraw(request(name))
    assert dying.wait_dead(WAIT_S) == EXIT_CODE
    place.start_worker("naive payment service")
    wait_until(lambda: len(payments(place.books, [name])) == 2, "paid twice")
    assert verdict(place.books, [name], HUNDRED).unfunded_minor == HUNDRED


def test_the_naive_way_overwrites_balances(sites: dict[str, Site]):
    place = sites["naive"]
    name = account(place, 50 * HUNDRED)

    def ask(_: int) -> None:
        with closing(place.client()) as client:
            for _ in range(5):
                # Who stands before the lock of another for long gives up, has done nothing, and comes again.
                caller.ask(client, request(name))

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(ask, range(5)))
    wait_until(lambda: len(payments(place.books, [name])) == 25, "all are paid")
    assert verdict(place.books, [name], 25 * HUNDRED).unfunded_minor > 0
