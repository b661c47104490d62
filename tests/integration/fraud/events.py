"""What the fraud service says."""

from contracts.events import Event


class FraudChecked(Event, frozen=True, kw_only=True, gc=False):
    """A deduction was looked at."""

    topic = "fraud.events"

    suspicious: bool
