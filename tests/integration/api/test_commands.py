"""Commands with ``--api`` say the same as on databases and Kafka, with the rights of a key."""

import json
from uuid import UUID

import pytest
from typer.testing import CliRunner

from api.access import OPERATOR, VIEWER
from cli.main import app
from tests.conftest import wait_until
from tests.integration.api.front import Front, ask

NOWHERE = {
    **{f"SETTLE_{name}_DSN": "postgresql://settle@127.0.0.1:9/nowhere" for name in ("SAGA", "ACCOUNT", "PAYMENT")},
    "SETTLE_KAFKA_BOOTSTRAP": "127.0.0.1:9",
    "COLUMNS": "80",
}


@pytest.fixture(scope="module")
def by_api(front: Front):
    """Runs a command with a key; databases and Kafka are nowhere for it."""
    keys = {role: front.key(f"cli-{role}", role) for role in (VIEWER, OPERATOR)}
    url = front.stack.state.api_url

    def run(role, *arguments):
        environment = {**NOWHERE, "SETTLE_API_KEY": keys.get(role, role), "SSL_CERT_FILE": _authority(front)}
        return CliRunner().invoke(app, [*arguments, "--api", url], env=environment)

    return run


def _authority(front: Front) -> str | None:
    ca = front.stack.data / "secrets" / "ca.crt"
    return str(ca) if ca.exists() else None


def test_a_stuck_withdrawal_is_listed_and_nudged(front: Front, by_api):
    front.stack.stop_service("payment")
    try:
        with front.http(front.key("shop-cli")) as shop:
            payment_id = ask(shop, front.open_account()).json()["payment_id"]
        wait_until(lambda: front.events(UUID(payment_id))[-1:] == ["MoneyDeducted"], "the money is taken")

        def listed(done):
            return [one for one in json.loads(done.stdout) if one["payment_id"] == payment_id]

        def alike():
            # Neither knows what holds it up if Kafka does not say within two seconds who reads.
            shown = listed(by_api(VIEWER, "stuck", "--older-than", "0", "--json"))
            own = CliRunner().invoke(app, ["stuck", "--older-than", "0", "--json"], env=front.stack.environment())
            return shown if shown == listed(own) and any(one["held_up_by"] for one in shown) else None

        (_,) = wait_until(alike, "both list it with what holds it up")
        assert payment_id in by_api(VIEWER, "stuck", "--older-than", "0").stdout
        nudged = by_api(OPERATOR, "nudge", payment_id, "--why", "a test")
        assert nudged.exit_code == 0
        # What does not answer within two seconds is named.
        assert [line for line in nudged.stderr.splitlines() if " could not be asked for " not in line] == []
        assert nudged.stdout.startswith(
            "republished on account.events: MoneyDeducted\nit waits for the payment serv"
        )
    finally:
        front.stack.start_service("payment")
    front.finished(UUID(payment_id))
    again = by_api(OPERATOR, "nudge", payment_id, "--why", "a test")
    assert (again.exit_code, again.stdout) == (2, "")
    assert f"withdrawal {payment_id} is finished: completed" in again.stderr


def test_an_audit_is_run_by_the_api_and_printed_like_ones_own(front: Front, by_api):
    with front.http(front.key("shop-audit")) as shop:
        front.finished(UUID(ask(shop, front.open_account()).json()["payment_id"]))

    def audited(*more):
        # One whose result is there may still hold its lock.
        done = by_api(OPERATOR, "audit", "--why", "a test", "--wait", "60", *more)
        return None if "an audit is running already" in done.stderr else done

    done = wait_until(audited, "no other audit runs")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "the audit holds: " in done.stdout
    found = json.loads(wait_until(lambda: audited("--json"), "no other audit runs").stdout)
    assert found["ok"] is True


def test_outboxes_are_shown_alike(front: Front, by_api):
    shown = json.loads(by_api(VIEWER, "outbox", "status", "--json").stdout)
    own = CliRunner().invoke(app, ["outbox", "status", "--json"], env=front.stack.environment())
    assert [one.keys() for one in shown] == [one.keys() for one in json.loads(own.stdout)]
    assert [one["source"] for one in shown] == [one["source"] for one in json.loads(own.stdout)]


@pytest.mark.parametrize(
    ("role", "arguments", "code", "said"),
    [
        (VIEWER, ["nudge", str(UUID(int=7)), "--why", "x"], 2, "viewer cli-viewer lacks the permission"),
        (OPERATOR, ["nudge", str(UUID(int=7))], 2, "with --api, say why"),
        (OPERATOR, ["nudge", str(UUID(int=7)), "--why", "x"], 2, f"no withdrawal {UUID(int=7)} is known"),
        ("settle_0_forged", ["stuck"], 2, "(SETTLE_API_KEY)"),
    ],
)
def test_what_the_api_refuses_is_one_line(by_api, role, arguments, code, said):
    done = by_api(role, *arguments)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert said in done.stderr
