"""Clients that are slow, broken or hostile: each is answered or sent away in time, and nobody else notices."""

import asyncio
import json
import socket
from contextlib import ExitStack, suppress
from uuid import UUID

import httpx
import psutil
import pytest
from uuid_utils.compat import uuid7

from api.access import VIEWER
from api.bodies import BODY_BYTES_MAX
from api.listening import SEND_BUFFER_BYTES
from operations.endings import latest
from tests.conftest import WAIT_S, wait_until
from tests.integration.api.front import WITHDRAWALS, Front, ask, body, head, new_key

JSON = {"Content_Type": "application/json"}
EVENTS = {"Accept": "text/event-stream"}
DEAF = 10
ENDINGS = 20_000
"""Some 8 MB for each who follows."""
RSS_MORE_MAX = 100 * 1024**2

_PLANT = """
INSERT INTO withdrawals (payment_id, account_id, amount_minor, currency, state, seen, created_at, updated_at,
    finished_at, finished_by)
SELECT gen_random_uuid(), 'acc-planted', 100, 'USD', 'completed', 7, now(), now(), now(), 'WithdrawalCompleted'
FROM generate_series(1, %s) RETURNING 1
"""


@pytest.fixture
def key(front: Front) -> str:
    return front.key(f"shop-{uuid7()}")


def posted(key: str, content: bytes, idempotency_key: str | None = None, **more: str) -> bytes:
    fields = JSON | {"Idempotency_Key": idempotency_key or new_key(), "Content_Length": str(len(content))} | more
    return head("POST", WITHDRAWALS, key, **fields) + content


def connect(front: Front, stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(front.place, timeout=WAIT_S))


def answer_to(front: Front, sent: bytes) -> bytes:
    """All that comes back until the connection is closed, or 0.2 s after the last of it."""
    with ExitStack() as stack:
        client = connect(front, stack)
        with suppress(BrokenPipeError, ConnectionResetError):  # it may be refused before all is sent
            client.sendall(sent)
        found = b""
        with suppress(TimeoutError, ConnectionResetError):
            while piece := client.recv(65_536):
                found += piece
                client.settimeout(0.2)
        return found


async def trickled(front: Front, begin: bytes, piece: bytes) -> bytes:
    """What somebody is answered who sends a piece of a request each second."""
    reader, writer = await asyncio.open_connection(*front.place)
    writer.write(begin)
    answer = asyncio.create_task(reader.read(65_536))
    async with asyncio.timeout(WAIT_S):
        while not (await asyncio.wait({answer}, timeout=1))[0]:
            writer.write(piece)
    writer.close()
    try:
        return answer.result()
    except ConnectionResetError:
        return b""


def test_who_sends_a_byte_a_second_is_sent_away_and_holds_up_nobody(front: Front, key: str):
    account = front.open_account()
    whole = posted(key, b"", Content_Length="1000")
    endless = head("POST", WITHDRAWALS, key, **JSON, Idempotency_Key=new_key(), Transfer_Encoding="chunked")

    async def at_once() -> list[bytes] | None:
        slow = [trickled(front, whole, b"{"), trickled(front, endless, b"1\r\n{\r\n"), trickled(front, b"", b"P")]
        answers = asyncio.gather(*slow)
        async with httpx.AsyncClient(base_url=front.stack.state.api_url, timeout=WAIT_S) as client:
            headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": new_key()}
            answer = await client.post(WITHDRAWALS, json=body(account), headers=headers)
        assert answer.status_code == 202
        is_first = not answers.done()
        found = await answers
        return found if is_first else None

    # A machine that stands still for as long as the slow ones have answers all of them together.
    of_body, of_chunks, of_head = wait_until(lambda: asyncio.run(at_once()), "it is answered before the slow ones")
    for answer in (of_body, of_chunks):
        assert answer.startswith(b"HTTP/1.1 408")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "urn:settle:problem:too-slow"
    assert of_head == b"" or of_head.startswith(b"HTTP/1.1 408")


def test_who_never_reads_is_dropped_costs_little_and_holds_up_nobody(front: Front, key: str):
    account, viewer = front.open_account(), front.key("viewer", VIEWER)
    api = psutil.Process(front.stack.pid("api"))
    place = front._on("saga", latest)
    with ExitStack() as stack, front.http(key) as shop, front.http(viewer) as reads:
        deaf = []
        for _ in range(DEAF):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.connect(front.place)
            client.sendall(head("GET", "/v1/events", viewer, **EVENTS, Last_Event_ID=place))
            deaf.append(client)
        wait_until(lambda: front.measured("settle_http_streams") >= DEAF, "they follow")
        rss = api.memory_info().rss
        try:
            front.query("saga", _PLANT, ENDINGS)
            with reads.stream("GET", "/v1/events", headers={"Last-Event-ID": place}) as answer:
                told = (line for line in answer.iter_lines() if line.startswith("data: "))
                for _ in range(ENDINGS):
                    assert next(told)
                    assert api.memory_info().rss <= rss + RSS_MORE_MAX
            assert ask(shop, account).status_code == 202
            wait_until(lambda: front.measured("settle_http_streams") == 0, "those who do not read are dropped")
            ours = {client.getsockname()[1] for client in deaf}
            wait_until(
                lambda: not ours & {one.raddr.port for one in api.net_connections() if one.raddr},
                "their connections are closed",
            )
            for client in deaf:
                assert received(client) < 2 * SEND_BUFFER_BYTES + DEAF * 65_536
        finally:
            front.query("saga", "DELETE FROM withdrawals WHERE account_id = 'acc-planted' RETURNING 1")


def received(client: socket.socket) -> int:
    """How many bytes were on their way to somebody who did not read, until the connection broke."""
    count = 0
    with suppress(ConnectionResetError, TimeoutError):
        client.settimeout(WAIT_S)
        while piece := client.recv(65_536):
            count += len(piece)
    return count


def test_who_hangs_up_half_way_has_asked_once_at_the_most_and_leaves_nothing(front: Front, key: str):
    account, api = front.open_account(), psutil.Process(front.stack.pid("api"))
    content, keys = json.dumps(body(account)).encode(), [new_key() for _ in range(20)]
    whole = [posted(key, content, one) for one in keys]
    stories = [
        *whole,
        *(one[:-1] for one in whole),
        *(one[:100] for one in whole),
        *(head("GET", "/v1/events", key, **EVENTS) for _ in range(20)),
    ]
    with ExitStack() as stack, front.http(key) as shop:
        ours = set()
        for story in stories:
            client = connect(front, stack)
            ours.add(client.getsockname()[1])
            client.sendall(story)
            client.shutdown(socket.SHUT_WR)
        wait_until(
            lambda: not ours & {one.raddr.port for one in api.net_connections() if one.raddr}, "all are sent away"
        )
        wait_until(lambda: front.measured("settle_http_streams") == 0, "nobody follows")

        def stored_id(one: str) -> UUID:
            """Who has hung up may have left a request that is being stored."""
            done = wait_until(
                lambda: (answer := ask(shop, account, key=one)).status_code != 409 and answer, "it is stored"
            )
            return UUID(done.json()["payment_id"])

        named = {stored_id(one) for one in keys}
        stored = front.query("api", "SELECT payment_id FROM withdrawals WHERE account_id = %s", account)
        assert {payment_id for (payment_id,) in stored} == named
        assert len(named) == len(keys)


def test_a_body_of_ten_megabytes_is_refused_however_it_is_sent(front: Front, key: str):
    large = b"x" * 10 * 1024**2
    chunks = b"".join(b"1000\r\n" + large[at : at + 4_096] + b"\r\n" for at in range(0, len(large), 4_096))
    about = JSON | {"Idempotency_Key": new_key()}
    for sent in (
        posted(key, large),
        head("POST", WITHDRAWALS, key, **about, Transfer_Encoding="chunked") + chunks,
    ):
        with ExitStack() as stack:
            client = connect(front, stack)
            with suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(sent)
            assert client.recv(65_536).startswith(b"HTTP/1.1 413")


def test_requests_in_a_row_are_answered_in_their_order(front: Front, key: str):
    account = front.open_account()
    amounts = [f"{number}.00" for number in range(1, 21)]
    sent = b"".join(posted(key, json.dumps(body(account, amount)).encode()) for amount in amounts)
    with ExitStack() as stack:
        client = connect(front, stack)
        client.sendall(sent)
        found = b""
        while found.count(b'"state":"accepted"') < len(amounts):
            piece = client.recv(65_536)
            assert piece
            found += piece
    assert found.count(b"HTTP/1.1 202") == len(amounts)
    assert [part.partition(b'"')[0].decode() for part in found.split(b'"amount":"')[1:]] == amounts


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (lambda key: head("GET", WITHDRAWALS, key, X_Long="x" * 64 * 1024), b"431"),
        (lambda key: head("GET", WITHDRAWALS, key, **{f"X_{n}": "x" for n in range(1_000)}), b"431"),
        (lambda key: head("GET", f"{WITHDRAWALS}?reason={'x' * 64 * 1024}", key), b"4"),
        (lambda key: posted(key, b"{}", Content_Length="-1"), b"400"),
        (lambda key: posted(key, b"{}", Content_Length="9" * 30), b"400"),
        (lambda key: posted(key, b"{}", content_length="3"), b"400"),
        (lambda key: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, b"400"),
        (lambda key: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
        (lambda key: head("GET", WITHDRAWALS, key).replace(b"HTTP/1.1", b"HTTP/9.9"), b"4"),
    ],
    ids=["long header", "many headers", "long path", "negative", "huge", "two lengths", "TLS", "HTTP/2", "HTTP/9"],
)
def test_a_head_that_is_none_is_refused_by_the_server(front: Front, key: str, sent, status):
    answer = answer_to(front, sent(key))
    assert not answer or answer.startswith(b"HTTP/1.1 " + status), answer
    with front.http(key) as shop:
        assert ask(shop, front.open_account()).status_code == 202


@pytest.mark.parametrize(
    "path",
    [
        f"/{WITHDRAWALS}",
        "/v1//withdrawals",
        "//v1/withdrawals//",
        "/%76%31/withdrawals",
        "/v1/withdraw%61ls",
        "/v1%2Fwithdrawals",
        f"{WITHDRAWALS}/{UUID(int=1)}%2Fevents",
        f"{WITHDRAWALS}/{UUID(int=1)}//events",
    ],
)
def test_a_path_that_is_written_in_another_way_is_none(front: Front, key: str, path: str):
    answer = answer_to(front, head("GET", path, key))
    assert answer.startswith(b"HTTP/1.1 404"), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "urn:settle:problem:path-unknown"


def test_a_parameter_may_be_encoded_in_a_path(front: Front):
    account = front.open_account()
    written = "".join(f"%{ord(letter):02x}" for letter in account)
    with front.http(front.key("viewer", VIEWER)) as viewer:
        assert viewer.get(f"/v1/accounts/{written}/proof").json()["account_id"] == account


@pytest.mark.parametrize("lengths", ["CT", "TC"])
def test_behind_a_body_whose_length_is_told_twice_nothing_is_read(front: Front, key: str, lengths: str):
    """A program on the way may have taken what follows for a part of it, and be told another request's answer."""
    content = json.dumps(body("acc-1")).encode()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    smuggled = head("GET", WITHDRAWALS, key)
    both = {"C": {"Content_Length": str(len(chunks + smuggled))}, "T": {"Transfer_Encoding": "chunked"}}
    fields = {"Idempotency_Key": new_key(), **JSON, **both[lengths[0]], **both[lengths[1]]}
    answer = answer_to(front, head("POST", WITHDRAWALS, key, **fields) + chunks + smuggled)
    assert answer.startswith(b"HTTP/1.1 202"), answer
    assert answer.count(b"HTTP/1.1") == 1


def test_a_head_of_40_000_bytes_is_read_and_what_the_server_refuses_has_no_body(front: Front, key: str):
    assert answer_to(front, head("GET", WITHDRAWALS, key, X_Long="x" * 40_000)).startswith(b"HTTP/1.1 200")
    large = answer_to(front, head("GET", WITHDRAWALS, key, X_Long="x" * 60_000))
    for status, answer in ((b"431", large), (b"400", answer_to(front, posted(key, b"{}", Content_Length="-1")))):
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.partition(b"\r\n\r\n")[2] == b""


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 4_000, "0." + "1" * 4_000, "1E+99999999999"])
def test_a_number_however_large_is_no_amount(front: Front, key: str, number: str):
    content = f'{{"account_id": "acc-1", "amount": {number}, "currency": "USD"}}'.encode()
    assert len(content) < BODY_BYTES_MAX
    with front.http(key) as shop:
        headers = {"Idempotency-Key": new_key(), "Content-Type": "application/json"}
        answer = shop.post(WITHDRAWALS, content=content, headers=headers)
    assert answer.status_code == 422, answer.text
