"""A Kafka cluster of three nodes, broker and controller each, that can be killed, frozen and moved far away."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import PartitionMetadata  # type: ignore[attr-defined]

from broker.clients import admin
from broker.lifeline import why_unanswered
from lab import network
from lab.comparison.caller import wait_for
from stack.jars import kafka_jars
from stack.kafka import Kafka
from stack.ports import HOST, choose
from stack.process import Child, Home
from stack.supervisor import to_stderr

NODES = (1, 2, 3)
CLUSTER_ID = "c2V0dGxlLWNsdXN0ZXItMQ"
REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    # Where cores are short, voters are not to take each other for dead all the time.
    "controller.quorum.fetch.timeout.ms": "5000",
    # Who connects to the listener FAR is told the addresses of the proxies, and so stays behind them.
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT",
}
# Three share two cores with all that runs beside them.
JAVA_OPTIONS = ("-Xms64m", "-Xmx256m")
DEADLINE_S = 120.0
ANSWER_S = 2.0


class Cluster:
    """Topics have three replicas, of which two must have a record before it is acknowledged.

    The nodes are next to each other; clients may come from far away, through a delaying proxy for each node.

    Args:
        folder: an empty one, for data and logs.
        delay_ms: how long bytes from far away take each way, milliseconds.

    Attributes:
        bootstrap: ``host:port`` of all nodes.
        far_bootstrap: the same, seen from far away.
        network: the process that the far connections go through; frozen, none of them carries anything.
    """

    network: Child

    def __init__(self, folder: Path, delay_ms: float = 5.0) -> None:
        taken: set[int] = set()
        controllers = {node: choose(taken=taken) for node in NODES}
        ports = {node: choose(taken=taken) for node in NODES}
        voters = ",".join(f"{node}@{HOST}:{port}" for node, port in controllers.items())
        self._delay_ms = delay_ms
        self._fd = os.open(folder / "children", os.O_CREAT)
        self._nodes: dict[int, Kafka] = {}
        self._children: dict[int, Child] = {}
        self._routes: dict[int, int] = {}
        for node in NODES:
            home = self._home = Home(folder / str(node), self._fd)
            home.data.mkdir()
            behind, proxy = choose(taken=taken), choose(taken=taken)
            self._routes[proxy] = behind
            near = f"PLAINTEXT://{HOST}:{ports[node]}"
            settings = REPLICATED | {
                "node.id": str(node),
                "controller.quorum.voters": voters,
                "listeners": f"{near},FAR://{HOST}:{behind},CONTROLLER://{HOST}:{controllers[node]}",
                "advertised.listeners": f"{near},FAR://{HOST}:{proxy}",
            }
            jars = kafka_jars(to_stderr)
            self._nodes[node] = Kafka(
                home, jars, ports[node], controllers[node], JAVA_OPTIONS, settings, CLUSTER_ID
            )
        self.bootstrap = ",".join(f"{HOST}:{port}" for port in ports.values())
        self.far_bootstrap = ",".join(f"{HOST}:{port}" for port in self._routes)

    def __enter__(self) -> "Cluster":
        formatting = [node.prepare() for node in self._nodes.values()]
        assert all(child and child.wait(60) and child.exit_code() == 0 for child in formatting)
        for node in NODES:
            self.start(node)
        self.network = network.launch(self._home, self._routes, self._delay_ms)
        for bootstrap in (self.bootstrap, self.far_bootstrap):
            wait_for(lambda at=bootstrap: why_unanswered(at) is None, "the cluster answers", DEADLINE_S)  # type: ignore[misc]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in (self.network, *self._children.values()):
            child.signal(signal.SIGKILL)
            child.wait(10)
        os.close(self._fd)

    def start(self, node: int) -> None:
        """Start a node; nothing is waited for."""
        self._children[node] = self._nodes[node].launch()

    def kill(self, node: int) -> None:
        """As a crash does: connections to it end at once."""
        self.signal(node, signal.SIGKILL)
        self._children[node].wait(10)

    def signal(self, node: int, number: signal.Signals) -> None:
        """SIGSTOP: it stands still, and connections to it stay; SIGCONT: it goes on."""
        self._children[node].signal(number)

    def mend(self) -> None:
        """All nodes run again, and the network carries; nothing is waited for."""
        self.network.signal(signal.SIGCONT)
        for node, child in self._children.items():
            if child.exit_code() is None:
                child.signal(signal.SIGCONT)
            else:
                self.start(node)

    def partitions(self, topic: str) -> dict[int, PartitionMetadata]:
        """Those of a topic, with their leaders and replicas."""
        return wait_for(lambda: self._partitions(topic), "Kafka knows the topic")

    def leader(self, topic: str) -> int:
        """The node that leads the topic's partition 0; -1 without one."""
        return self.partitions(topic)[0].leader

    def wait_whole(self, topic: str) -> None:
        """Wait until all nodes are in sync for a topic."""

        def whole() -> bool:
            found = self._partitions(topic).values()
            return bool(found) and all(len(partition.isrs) == len(NODES) for partition in found)

        wait_for(whole, "all nodes are in sync", DEADLINE_S)

    def _partitions(self, topic: str) -> dict[int, PartitionMetadata]:
        # A new client asks a node that lives, whoever is frozen.
        with suppress(KafkaException):
            found = admin(self.bootstrap).list_topics(topic, ANSWER_S).topics[topic]
            return found.partitions if found.error is None else {}
        return {}
