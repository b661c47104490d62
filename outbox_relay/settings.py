"""The relay's settings as variables: which databases and outbox, which Kafka, and where it answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, field_validator
from pydantic_settings import NoDecode

from contracts.dsn import Dsn, check_dsn, split_dsns
from contracts.services import NAMES
from contracts.settings import Settings
from outbox_relay.config import (
    PROCESSES_MAX,
    AdditionalTable,
    Columns,
    Initial,
    Name,
    SlotName,
    TopicName,
    outbox_of,
    token,
    valid,
)
from outbox_relay.outbox import Outbox

# One variable for each service that the registry knows: SETTLE_ACCOUNT_DSN and so on.
_FIELDS: Any = {
    f"{name}_dsn": (
        Dsn | None,
        Field(None, repr=False, description=f"without relay_sources: database of the {name} service"),
    )
    for name in NAMES
}
_Databases = create_model("_Databases", __base__=Settings, **_FIELDS)


OF_AN_OUTBOX = (
    "relay_schema",
    "relay_table",
    "relay_columns",
    "relay_additional",
    "relay_topic",
    "relay_route_regex",
    "relay_route_replacement",
    "relay_publication",
    "relay_slot",
    "relay_dead_table",
    "relay_control_table",
)
"""The settings that describe an outbox."""


class RelaySettings(_Databases):
    """The relay's settings; each is an environment variable with the prefix ``SETTLE_``."""

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka, host:port[,host:port…]")
    relay_sources: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        repr=False,
        description="databases: URLs, separated by white space or commas, or key-value strings, one a line",
    )
    relay_reader: Literal["wal", "polling"] = Field("wal", description="how the outbox is read")
    relay_poll_interval_s: float = Field(
        1.0, gt=0, le=3600, description="polling: pause between two looks, seconds"
    )
    relay_initial: Initial | None = Field(
        None, description="which rows from before a new slot are published: all, none, since=TIME"
    )
    relay_cleanup: bool = Field(True, description="whether published rows are removed from the outbox")
    relay_config: Path | None = Field(None, description="the configuration file")
    relay_schema: Name = Field("public", description="the outbox's schema")
    relay_table: Name = Field("outbox", description="the outbox's table")
    relay_columns: str = Field("", description="columns of other names: id=event_id,type= (there is no type)")
    relay_additional: str = Field("", description="further columns: tenant:header:x-tenant,shard:partition")
    relay_topic: TopicName | None = Field(None, description="one topic for all rows")
    relay_route_regex: str | None = Field(None, description="what aggregatetype is matched with")
    relay_route_replacement: str | None = Field(None, description="the topic of what matches: $1.events")
    relay_publication: Name | None = Field(None, description="the publication; default: settle_outbox")
    relay_slot: SlotName | None = Field(None, description="the slot; default: settle_outbox_<database>")
    relay_dead_table: Name | None = Field(None, description="the table of dead rows; default: <table>_dead")
    relay_control_table: Name | None = Field(
        None, description="the table of what is asked of the relay; default: <table>_control"
    )
    relay_http_token: str | None = Field(
        None, repr=False, description="what whoever controls the relay over HTTP presents as a bearer token"
    )
    relay_fencing: bool = Field(
        False, description="whether records are sent in transactions, which fence off a relay that froze"
    )
    relay_processes: int = Field(
        1, ge=1, le=PROCESSES_MAX, description="over how many processes the sources are spread"
    )
    http_host: str = Field("127.0.0.1", description="where /healthz, /readyz and /metrics answer")
    http_port: int = Field(0, ge=0, le=65535, description="0: nowhere")

    @field_validator("relay_sources", mode="before")
    @classmethod
    def _are_databases(cls, sources: str | Sequence[str]) -> list[str]:
        return split_dsns(sources) if isinstance(sources, str) else [check_dsn(dsn) for dsn in sources]

    @field_validator("relay_columns")
    @classmethod
    def _are_columns(cls, text: str) -> str:
        valid(Columns, _columns(text), "SETTLE_RELAY_COLUMNS")
        return text

    @field_validator("relay_additional")
    @classmethod
    def _are_additional(cls, text: str) -> str:
        for one in _additional(text):
            valid(AdditionalTable, one, "SETTLE_RELAY_ADDITIONAL")
        return text

    @field_validator("relay_http_token")
    @classmethod
    def _is_token(cls, text: str | None) -> str | None:
        return token(text) if text is not None else None

    @property
    def sources(self) -> list[str]:
        """The DSNs of the databases whose outbox is relayed."""
        services = (getattr(self, f"{name}_dsn") for name in NAMES)
        return list(self.relay_sources) or [dsn for dsn in services if dsn]

    def outbox(self) -> Outbox:
        """The outbox that each of the databases has, as variables and options describe it.

        Raises:
            ConfigurationError: they do not fit together.
        """
        route = {"topic": self.relay_topic, "regex": self.relay_route_regex}
        described = {
            "schema": self.relay_schema,
            "table": self.relay_table,
            "columns": _columns(self.relay_columns),
            "additional": _additional(self.relay_additional),
            "route": {**route, "replacement": self.relay_route_replacement},
            "publication": self.relay_publication,
            "slot": self.relay_slot,
            "dead_table": self.relay_dead_table,
            "control_table": self.relay_control_table,
        }
        return outbox_of(described, "SETTLE_RELAY_…")


def _columns(text: str) -> dict[str, str | bool]:
    """Columns by role, of ``id=event_id,type=``."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {role.strip(): name.strip() or False for role, _, name in pairs}


def _additional(text: str) -> list[dict[str, str]]:
    """Further columns, of ``tenant:header:x-tenant,shard:partition``."""
    keys = ("column", "placement", "name")
    return [
        dict(zip(keys, map(str.strip, part.split(":", 2)), strict=False))
        for part in text.split(",")
        if part.strip()
    ]
