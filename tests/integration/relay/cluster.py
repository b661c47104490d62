"""A stack of the relay's tests whose Kafka is a cluster."""

from types import SimpleNamespace


def on(bootstrap, stack):
    """A stack of the same databases whose Kafka is there."""
    state = SimpleNamespace(kafka_bootstrap=bootstrap, dsns=stack.state.dsns)
    return SimpleNamespace(state=state, admin_bootstrap=bootstrap, data=stack.data)
