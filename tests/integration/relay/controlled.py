"""What the tests of control share: acts by command and over HTTP."""

import json
import urllib.error
import urllib.request
from types import SimpleNamespace

from typer.testing import CliRunner

from outbox_relay.control.command import app
from tests.integration.relay.outbox import DEADLINE_S

WAYS = [("http", "wal"), ("command", "polling")]
"""How somebody asks, and how the outbox is read; each both ways."""

WHY = "the consumer is being mended"
WAITS = ("pause", "resume", "rewind", "skip")
"""What a command waits for until a relay has done it."""


def command(outbox, *words, reason=WHY, reader="wal", code=0, **variables):
    """What a command printed, from JSON where it was asked for that."""
    words = [*words, "--reason", reason] if reason is not None else list(words)
    if words[0] in WAITS and "--wait" not in words:
        words += ["--wait", str(DEADLINE_S)]
    sources = getattr(outbox, "dsn", outbox)
    environment = {"SETTLE_RELAY_SOURCES": sources, "SETTLE_RELAY_READER": reader, **variables}
    done = CliRunner().invoke(app, words, env=environment)
    assert done.exit_code == code, (done.exit_code, done.output, done.exception)
    return json.loads(done.stdout) if "--json" in words else done.output


def http(port, path, body=None, *, method=None, token=None, host=None, headers=None):
    """The status and the JSON that a page answers."""
    sent = {"Content-Type": "application/json", **(headers or {})} if body is not None else dict(headers or {})
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(
        f"http://{host or '127.0.0.1'}:{port}{path}",
        data=json.dumps(body).encode() if body is not None else None,
        headers=sent,
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if "json" in error.headers["Content-Type"] else text


class Person:
    """Someone who controls a source, by ``command`` or by ``http``."""

    def __init__(self, outbox, by, port, reader="wal"):
        self.outbox, self.by, self.port, self.reader = outbox, by, port, reader

    def do(self, act, *, row=None, since=None, reason=WHY, code=0):
        """What came of an act, once a relay has had its time to do it."""
        if self.by == "command":
            about = ["--since", since] if since else []
            about += [] if row is None else ["--row", row] if act == "rewind" else [row]
            return SimpleNamespace(
                **command(
                    self.outbox, *act.split(), *about, "--json", reason=reason, reader=self.reader, code=code
                )
            )
        path = f"/v1/sources/{self.outbox.name}/{act.replace(' ', '/')}"
        body = {"reason": reason, "row": row, "since": since}
        status, found = http(self.port, path, {key: value for key, value in body.items() if value is not None})
        assert (status in (200, 202)) == (code == 0), (status, found)
        return SimpleNamespace(**{"state": "refused", "text": found.get("detail"), **found})

    def status(self):
        """Where the source stands."""
        if self.by == "command":
            (found,) = command(self.outbox, "status", "--json", reason=None, reader=self.reader)
        else:
            _, found = http(self.port, f"/v1/sources/{self.outbox.name}")
        return found
