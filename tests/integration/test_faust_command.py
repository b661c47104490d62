"""Faust's own command starts a service, and ends it in order."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import psutil

from stack.ports import choose
from stack.state import environment
from tests.conftest import OPENING_MINOR, WAIT_S, Settle
from tests.integration.test_withdrawals import request


def test_fausts_own_command_runs_a_service(settle: Settle, tmp_path: Path):
    account = settle.open_account()
    settle.stack.stop_service("account")
    try:
        command = [str(Path(sys.executable).with_name("faust")), "-A", "processors.account.processor", "worker"]
        port = choose(taken=set())
        variables = {**os.environ, **environment(settle.stack.state), "SETTLE_HTTP_PORT": str(port)}
        with (tmp_path / "log").open("w") as log:
            worker = subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=log, stderr=log)
        try:
            one = request(account, 10_000)
            settle.client.send(one, lambda _: None)
            settle.client.flush()
            assert settle.finished(one.payment_id).finished_by == "WithdrawalCompleted"
            with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=WAIT_S) as page:
                assert page.read() == b"ok\n"
            listening = [at for at in psutil.Process(worker.pid).net_connections() if at.status == "LISTEN"]
            assert [at.laddr.port for at in listening] == [port]  # no web server of Faust's own
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(WAIT_S) == 0, (tmp_path / "log").read_text()[-2_000:]
        finally:
            worker.kill()
            worker.wait()
    finally:
        settle.stack.start_service("account")
        settle.stack.wait_ready("account")
    assert settle.balance(account) == OPENING_MINOR - one.amount_minor
