"""An API whose files are used up by connections that say nothing takes no more, and so ends to begin anew."""

import os
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack, suppress

import httpx
import trustme

from stack.ports import choose
from tests.conftest import WAIT_S, wait_until
from tests.integration.api.front import Front

FILES = 400
API = f"""
import resource, sys
from api import listening
listening.FILES_LOOK_S, listening.FULL_S = 0.2, 2.0
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
sys.argv[1:] = ["run", "api"]
import cli
cli.start()
"""


def test_over_tls_connections_that_say_nothing_end_a_process_that_has_no_file_left(front: Front, tmp_path):
    port = choose()
    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "api.crt")
    certificate.private_key_pem.write_to_path(tmp_path / "api.key")
    variables = {
        "SETTLE_API_LISTEN": f"127.0.0.1:{port}",
        "SETTLE_API_TLS_CERTIFICATE": str(tmp_path / "api.crt"),
        "SETTLE_API_TLS_KEY": str(tmp_path / "api.key"),
        "SETTLE_HTTP_PORT": "0",
    }
    environment = {**os.environ, **front.stack.environment(), **variables}

    def answers() -> bool:
        with suppress(httpx.TransportError):
            url = f"https://127.0.0.1:{port}/v1/docs"
            return httpx.get(url, verify=trust, timeout=WAIT_S).is_success
        return False

    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen([sys.executable, "-c", API], env=environment))
        stack.callback(process.kill)
        wait_until(answers, "it answers")

        def is_over() -> bool:
            """One connection more, as those before are given up after a while."""
            with suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S))
            return process.poll() is not None

        wait_until(lambda: any(is_over() for _ in range(FILES + 100)), "it has ended")
        assert process.returncode == 1
