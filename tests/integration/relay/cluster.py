"""Three Kafka nodes, broker and controller each, that a test may kill, freeze and let go on."""

import os
import signal
from contextlib import suppress
from types import SimpleNamespace

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from broker.clients import SILENT
from broker.lifeline import why_unanswered
from stack.jars import kafka_jars
from stack.kafka import Kafka
from stack.ports import HOST, choose
from stack.process import Home
from stack.supervisor import to_stderr
from tests.integration.relay.outbox import wait_until

NODES = (1, 2, 3)
CLUSTER_ID = "c2V0dGxlLWNsdXN0ZXItMQ"
REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    # Where cores are short, voters are not to take each other for dead all the time.
    "controller.quorum.fetch.timeout.ms": "5000",
}
# Three share two cores with all that runs beside them.
JAVA_OPTIONS = ("-Xms64m", "-Xmx256m")
DEADLINE_S = 120


class Cluster:
    """Topics have three replicas, of which two must have a record before it is acknowledged.

    Attributes:
        bootstrap: ``host:port`` of all nodes.
    """

    def __init__(self, folder):
        taken = set()
        ports = {node: (choose(taken=taken), choose(taken=taken)) for node in NODES}
        voters = ",".join(f"{node}@{HOST}:{controller}" for node, (_, controller) in ports.items())
        self._fd = os.open(folder / "children", os.O_CREAT)
        self._nodes = {}
        self._children = {}
        for node, (port, controller) in ports.items():
            home = Home(folder / str(node), self._fd)
            home.data.mkdir()
            settings = REPLICATED | {"node.id": str(node), "controller.quorum.voters": voters}
            self._nodes[node] = Kafka(
                home, kafka_jars(to_stderr), port, controller, JAVA_OPTIONS, settings, CLUSTER_ID
            )
        self.bootstrap = ",".join(f"{HOST}:{port}" for port, _ in ports.values())

    def __enter__(self):
        formatting = [node.prepare() for node in self._nodes.values()]
        assert all(child.wait(60) and child.exit_code() == 0 for child in formatting)
        for node in NODES:
            self.start(node)
        wait_until(lambda: why_unanswered(self.bootstrap) is None, "the cluster answers", DEADLINE_S)
        return self

    def __exit__(self, *_):
        for child in self._children.values():
            child.signal(signal.SIGKILL)
            child.wait(10)
        os.close(self._fd)

    def start(self, node):
        """Start a node; nothing is waited for."""
        self._children[node] = self._nodes[node].launch()

    def kill(self, node):
        """As a crash does: connections to it end at once."""
        self.signal(node, signal.SIGKILL)
        self._children[node].wait(10)

    def signal(self, node, number):
        """SIGSTOP: it stands still, and connections to it stay; SIGCONT: it goes on."""
        self._children[node].signal(number)

    def mend(self):
        """All nodes run again; nothing is waited for."""
        for node, child in self._children.items():
            if child.exit_code() is None:
                child.signal(signal.SIGCONT)
            else:
                self.start(node)

    def partitions(self, topic):
        """Those of a topic, with their leaders and replicas."""
        return wait_until(lambda: self._partitions(topic), "Kafka knows the topic")

    def leader(self, topic):
        """The node that leads the topic's partition 0; -1 without one."""
        return self.partitions(topic)[0].leader

    def wait_whole(self, topic):
        """Wait until all nodes are in sync for a topic."""

        def whole():
            found = self._partitions(topic).values()
            return found and all(len(partition.isrs) == len(NODES) for partition in found)

        wait_until(whole, "all nodes are in sync", DEADLINE_S)

    def _partitions(self, topic):
        # A new client asks a node that lives, whoever is frozen.
        admin = AdminClient({"bootstrap.servers": self.bootstrap}, logger=SILENT)
        with suppress(KafkaException):
            found = admin.list_topics(topic, 2).topics[topic]
            return found.partitions if found.error is None else {}
        return {}


def on(cluster, stack):
    """A stack of the same databases whose Kafka is a cluster."""
    state = SimpleNamespace(kafka_bootstrap=cluster.bootstrap, dsns=stack.state.dsns)
    return SimpleNamespace(state=state, admin_bootstrap=cluster.bootstrap, data=stack.data)
