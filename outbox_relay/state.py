"""The states of a source."""

import enum


class State(enum.Enum):
    """Where a source stands."""

    STARTING = "starting"
    FILLING = "making the slot, and publishing what was committed before it"
    READING = "reading"
    PAUSED = "paused"
    STANDBY = "standby"
    WAITING = "waiting"
    STOPPED = "stopped"
