"""An instance of the API that is told to stop: its streams end, and who follows goes on at the next instance."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx

from api.access import VIEWER
from api.streams import EVENT_STREAM
from producers.api import ApiClient
from stack.ports import choose
from tests.conftest import WAIT_S, wait_until
from tests.integration.api.front import WITHDRAWALS, Front, any_authority, head, requested

NEVER_S = 10 * WAIT_S
"""Longer than any test waits."""


@contextmanager
def instance(front: Front, port: int, log: Path, changes: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """One more instance of the API, once it answers, with some Python code that runs in it first."""
    variables = {"SETTLE_API_LISTEN": f"127.0.0.1:{port}", "SETTLE_HTTP_PORT": "0"}
    environment = {**os.environ, **front.stack.environment("api"), **variables}
    start = f"import sys; sys.argv[1:] = ['run', 'api']\n{changes}\nimport cli; cli.start()"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/v1/docs", verify=any_authority(), timeout=WAIT_S).is_success
        return False

    with (
        log.open("w") as lines,
        subprocess.Popen([sys.executable, "-c", start], env=environment, stderr=lines) as process,
    ):
        try:
            wait_until(answers, "it answers")
            yield process
        finally:
            process.kill()


def told_to_stop(process: subprocess.Popen[bytes]) -> int:
    process.terminate()
    return process.wait(WAIT_S)


def test_open_streams_end_and_go_on_at_the_next_instance(front: Front, shop: httpx.Client, tmp_path: Path):
    """Answers under way would be waited for longer than this test does."""
    port, log, patient = choose(), tmp_path / "log", f"from api import service; service.STOP_S = {NEVER_S}"
    payment_id = None
    front.stack.stop_service("relay")  # the withdrawal does not go on
    try:
        payment_id = requested(shop, front.open_account())
        types: list[str] = []

        def follow(key: str) -> None:
            with ApiClient(f"http://127.0.0.1:{port}", key, give_up_s=NEVER_S, verify=any_authority()) as api:
                types.extend(event.type for event in api.events(payment_id))

        with (
            instance(front, port, log, patient) as process,
            front.http(front.key("viewer", VIEWER), base_url=f"http://127.0.0.1:{port}") as viewer,
            ExitStack() as stack,
        ):
            viewer.headers["Accept"] = EVENT_STREAM
            paths = ("/v1/events", f"{WITHDRAWALS}/{payment_id}/events", "/console/stream")
            opened = [stack.enter_context(viewer.stream("GET", path)) for path in paths]
            streams = [answer.iter_raw() for answer in opened]
            assert [answer.status_code for answer in opened] == [200] * 3
            assert all(next(stream) for stream in streams)
            key = shop.headers["Authorization"].split()[1]
            follower = threading.Thread(target=follow, args=[key], daemon=True)
            follower.start()
            assert told_to_stop(process) == 0, log.read_text()
            for stream in streams:
                for _ in stream:  # to its end, which is in order
                    pass
        assert "Traceback" not in log.read_text()
        assert not types
        with instance(front, port, log):
            front.stack.start_service("relay")
            follower.join(WAIT_S)
        assert not follower.is_alive()
        assert types[-1] == "WithdrawalCompleted"
        assert len(types) == len({*types})
        assert {"WithdrawalRequested", "MoneyDeducted", "PaymentProcessed", "NotificationSent"} < {*types}
    finally:
        front.stack.start_service("relay")
        if payment_id is not None:
            front.finished(payment_id)


def test_an_answer_that_takes_too_long_is_cut_off_in_one_line(front: Front, shop: httpx.Client, tmp_path: Path):
    changes = f"from api import bodies, service; service.STOP_S = 1; bodies.BODY_S_MAX = {NEVER_S}"
    port, log = choose(), tmp_path / "log"
    with instance(front, port, log, changes) as process, socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(WAIT_S)
        about = {"Content_Type": "application/json", "Content_Length": "100", "Expect": "100-continue"}
        key = shop.headers["Authorization"].split()[1]
        client.sendall(head("POST", WITHDRAWALS, key, Idempotency_Key="k", **about))
        assert client.recv(4096).startswith(b"HTTP/1.1 100 ")  # its body is waited for
        assert told_to_stop(process) == 0, log.read_text()
    said = log.read_text()
    assert "answers under way are cut off" in said
    assert "Traceback" not in said
