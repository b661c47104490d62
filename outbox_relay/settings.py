"""Which databases, which Kafka, where does it answer? From the environment."""

import re
from typing import Literal

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from outbox_relay import initial


class RelaySettings(BaseSettings):
    """The relay's settings; each is an environment variable with the prefix ``SETTLE_``."""

    model_config = SettingsConfigDict(env_prefix="SETTLE_", extra="ignore")

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka, host:port[,host:port…]")
    relay_sources: str = Field("", description="database URLs, separated by white space or commas")
    account_dsn: str | None = Field(None, description="without relay_sources: the account database")
    payment_dsn: str | None = None
    notification_dsn: str | None = None
    saga_dsn: str | None = None
    relay_reader: Literal["wal", "polling"] = Field("wal", description="how the outbox is read")
    relay_poll_interval_s: float = Field(
        1.0, gt=0, le=3600, description="polling: pause between two looks, seconds"
    )
    relay_initial: str | None = Field(
        None, description="which rows from before a new slot are published: all, none, since=TIME"
    )
    relay_cleanup: bool = Field(True, description="whether published rows are removed from the outbox")
    http_host: str = Field("127.0.0.1", description="where /healthz, /readyz and /metrics answer")
    http_port: int = Field(0, ge=0, le=65535, description="0: nowhere")

    @field_validator("relay_sources")
    @classmethod
    def _are_database_urls(cls, text: str) -> str:
        for dsn in _split(text):
            try:
                conninfo_to_dict(dsn)
            except ProgrammingError:
                raise ValueError("not a list of database URLs (postgresql://user@host:port/database)") from None
        return text

    @field_validator("relay_initial")
    @classmethod
    def _is_a_choice_of_rows(cls, text: str | None) -> str | None:
        if text is not None:
            initial.parse(text)
        return text

    @property
    def sources(self) -> list[str]:
        """The DSNs of the databases whose outbox is relayed."""
        services = (self.account_dsn, self.payment_dsn, self.notification_dsn, self.saga_dsn)
        return _split(self.relay_sources) or [dsn for dsn in services if dsn]


def _split(text: str) -> list[str]:
    return [part for part in re.split(r"[\s,]+", text) if part]
