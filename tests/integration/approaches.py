"""What the tests of the approaches share: an account, a request, and a patient caller."""

from uuid_utils.compat import uuid7

from contracts.events import WithdrawalRequested
from lab.approaches.withdrawal import ACCEPTED, Approach, Outcome, TryAgainError
from lab.comparison.books import verdict
from lab.comparison.sites import Site
from producers.requests import new_request
from tests.conftest import wait_until

OPENING_MINOR = 100_000
HUNDRED = 100_00
REFUSED = 100_05


def account(place: Site, balance_minor: int = OPENING_MINOR) -> str:
    """A new account of its own for a test."""
    name = f"acc-{uuid7()}"
    place.open_accounts([name], balance_minor)
    return name


def request(account_id: str, amount_minor: int = HUNDRED) -> WithdrawalRequested:
    return new_request(account_id, amount_minor=amount_minor)


def withdraw(client: Approach, wanted: WithdrawalRequested) -> Outcome:
    """As a patient caller: again, with the same payment ID, until it is decided; then until it is finished."""

    def decided() -> Outcome | None:
        try:
            return client.withdraw(wanted)
        except TryAgainError:
            return None

    outcome = wait_until(decided, "a decision")
    if outcome.state != ACCEPTED:
        return outcome
    return wait_until(lambda: client.finished(wanted.payment_id), f"{wanted.payment_id} finished")


def settled(place: Site, account_id: str, asked_minor: int) -> None:
    """Every cent is where it belongs, as soon as all has arrived."""
    wait_until(
        lambda: verdict(place.books, [account_id], asked_minor).right,
        f"taken and paid is what was asked for: {verdict(place.books, [account_id], asked_minor)}",
    )
