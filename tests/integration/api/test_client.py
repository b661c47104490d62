"""The Python clients of the API: each request once, each event once, whatever breaks between."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from producers import api as producers_api
from producers.api import Accepted, ApiClient, AsyncApiClient, Event, Status, Step
from producers.errors import NotAnsweredError, RefusedError
from tests.clock import Clock
from tests.conftest import WAIT_S
from tests.integration.api.front import WITHDRAWALS, Front

PAID = ["WithdrawalRequested", "BalanceChecked", "MoneyDeducted", "PaymentProcessed"]


class Lossy(httpx.BaseTransport):
    """Loses the answers to the first requests, and breaks each stream after its first event."""

    def __init__(self, lost: int) -> None:
        self.inner = httpx.HTTPTransport()
        self.lost = lost
        self.keys: list[str | None] = []
        self.places: list[str | None] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self.inner.handle_request(request)
        if request.headers.get("accept") == "text/event-stream":
            self.places.append(request.headers.get("last-event-id"))
            return httpx.Response(answer.status_code, headers=answer.headers, stream=Broken(answer))
        self.keys.append(request.headers.get("idempotency-key"))
        if self.lost > 0:
            self.lost -= 1
            answer.close()
            raise httpx.ReadError("lost")
        return answer


class Broken(httpx.SyncByteStream):
    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        kept = b""
        assert isinstance(self._answer.stream, httpx.SyncByteStream)
        for part in self._answer.stream:
            kept += part
            if b"data:" in kept and kept.count(b"\n\n") >= 1:
                first, _, _ = kept[kept.index(b"id:") :].partition(b"\n\n")
                yield first + b"\n\n"
                raise httpx.ReadError("broken")
        yield kept

    def close(self) -> None:
        self._answer.close()


def client(front: Front, **options: Any) -> ApiClient:
    return ApiClient(front.stack.state.api_url, front.key(), timeout_s=WAIT_S, **options)


def test_a_withdrawal_is_asked_for_and_followed_to_its_end(front: Front):
    account = front.open_account()
    with client(front) as api:
        accepted = api.request(account, "12.50")
        status = api.wait(accepted.payment_id)
    assert (accepted.account_id, accepted.amount, accepted.currency) == (account, "12.50", "USD")
    assert (status.state, status.trace_id, status.waiting_for) == ("completed", accepted.trace_id, None)
    assert front.balance(account) == 1_000_000 - 1_250


def test_answers_that_are_lost_and_streams_that_break_change_nothing(front: Front):
    account, transport = front.open_account(), Lossy(lost=2)
    with client(front, transport=transport) as api:
        accepted = api.request(account, "1.00")
        events = list(islice(api.events(accepted.payment_id), 50))  # it may repeat one for ever
        status = api.status(accepted.payment_id)
    assert len(transport.keys[:3]) == 3
    assert len(set(transport.keys[:3])) == 1
    assert status.state == "completed"
    kinds = [event.type for event in events]
    assert set(PAID) <= set(kinds)  # in whichever order: there is none between topics
    assert kinds[-1] == "WithdrawalCompleted"
    assert len(kinds) == len(set(kinds))
    # Each stream gave one event, and the next one went on after it.
    places = [None if place is None else int(place) for place in transport.places]
    assert places == [None, *(event.id for event in events)]
    assert front.balance(account) == 1_000_000 - 100
    assert front.stored(accepted.payment_id) == 1


def test_it_is_the_same_for_asyncio(front: Front):
    account = front.open_account()

    async def ask() -> tuple[list[Accepted], list[Status]]:
        async with AsyncApiClient(front.stack.state.api_url, front.key(), timeout_s=WAIT_S) as api:
            accepted = await asyncio.gather(*(api.request(account, "1.00") for _ in range(20)))
            return accepted, await asyncio.gather(*(api.wait(one.payment_id) for one in accepted))

    accepted, statuses = asyncio.run(ask())
    assert {status.payment_id for status in statuses} == {one.payment_id for one in accepted}
    assert {status.state for status in statuses} == {"completed"}
    assert front.balance(account) == 1_000_000 - 2_000


def test_what_is_refused_is_not_repeated(front: Front):
    account = front.open_account()
    with client(front) as api:
        for amount in ("0", "a lot", "1.005"):
            with pytest.raises(RefusedError) as refused:
                api.request(account, amount)
            assert (refused.value.status, refused.value.kind) == (422, "invalid")
        with pytest.raises(RefusedError) as refused:
            api.status(uuid4())
        assert refused.value.kind == "not-found"
        with pytest.raises(RefusedError) as refused:
            list(api.events(uuid4()))
        assert refused.value.kind == "not-found"
        done = api.request(account, "1.00", idempotency_key="one")
        with pytest.raises(RefusedError) as refused:
            api.request(account, "2.00", idempotency_key="one")
        assert refused.value.kind == "key-reused"
        assert api.request(account, "1.00", idempotency_key="one").payment_id == done.payment_id
    with (
        ApiClient(front.stack.state.api_url, "settle_no_key", timeout_s=WAIT_S) as nobody,
        pytest.raises(RefusedError) as refused,
    ):
        nobody.request(account, "1.00")
    assert refused.value.kind == "unauthenticated"


@pytest.mark.parametrize("answer", [503, httpx.ConnectError("refused")])
def test_an_api_that_does_not_answer_is_given_up_in_one_line(answer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(producers_api, "time", Clock())
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["idempotency-key"])
        if isinstance(answer, int):
            return httpx.Response(answer, text="<h1>proxy</h1>")
        raise answer

    with (
        ApiClient("http://api", "key", give_up_s=0.5, transport=httpx.MockTransport(handle)) as api,
        pytest.raises(NotAnsweredError, match=r"^the API does not answer: .*(503|refused)"),
    ):
        api.request("acc-1", "1.00")
    assert len(asked) >= 3
    assert len(set(asked)) == 1


def test_its_types_are_those_of_the_documented_api():
    document = json.loads(Path("api/openapi.json").read_text())
    schemas = document["components"]["schemas"]
    documented = {
        Accepted: "AcceptedWithdrawal",
        Status: "WithdrawalStatus",
        Step: "Step",
        Event: "Recorded",
    }
    for kind, name in documented.items():
        schema = next(found for key, found in schemas.items() if key.rpartition("_")[2] == name or key == name)
        assert {field.name for field in msgspec.structs.fields(kind)} <= schema["properties"].keys(), name
    assert WITHDRAWALS in document["paths"]


def test_it_needs_nothing_of_kafka_nor_of_a_database():
    code = (
        "import sys; sys.modules['confluent_kafka'] = sys.modules['psycopg'] = None; import producers.api; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'broker', 'processors', 'faust'}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "[]\n", "")
