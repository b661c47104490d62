"""The relay's settings: which databases, which Kafka, and where it answers. From the environment."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, field_validator
from pydantic_settings import NoDecode

from contracts.dsn import Dsn, check_dsn, split_dsns
from contracts.services import NAMES
from contracts.settings import Settings
from outbox_relay import initial

# One variable for each service that the registry knows: SETTLE_ACCOUNT_DSN and so on.
_FIELDS: Any = {
    f"{name}_dsn": (
        Dsn | None,
        Field(None, repr=False, description=f"without relay_sources: database of the {name} service"),
    )
    for name in NAMES
}
_Databases = create_model("_Databases", __base__=Settings, **_FIELDS)


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
    relay_initial: str | None = Field(
        None, description="which rows from before a new slot are published: all, none, since=TIME"
    )
    relay_cleanup: bool = Field(True, description="whether published rows are removed from the outbox")
    relay_fencing: bool = Field(
        False, description="whether records are sent in transactions, which fence off a relay that froze"
    )
    http_host: str = Field("127.0.0.1", description="where /healthz, /readyz and /metrics answer")
    http_port: int = Field(0, ge=0, le=65535, description="0: nowhere")

    @field_validator("relay_sources", mode="before")
    @classmethod
    def _are_databases(cls, sources: str | Sequence[str]) -> list[str]:
        return split_dsns(sources) if isinstance(sources, str) else [check_dsn(dsn) for dsn in sources]

    @field_validator("relay_initial")
    @classmethod
    def _is_a_choice_of_rows(cls, text: str | None) -> str | None:
        if text is not None:
            initial.parse(text)
        return text

    @property
    def sources(self) -> list[str]:
        """The DSNs of the databases whose outbox is relayed."""
        services = (getattr(self, f"{name}_dsn") for name in NAMES)
        return list(self.relay_sources) or [dsn for dsn in services if dsn]
