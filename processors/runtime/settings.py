"""The services' settings, from environment variables with the prefix ``SETTLE_``."""

import json
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import AnyHttpUrl, Field, create_model, field_validator
from pydantic_settings import NoDecode

from contracts.dsn import Dsn
from contracts.services import DATABASES
from contracts.settings import Settings
from processors.runtime.membership import CONSUMER, Protocol
from processors.runtime.retry import RetryPolicy

DEFAULT_DSN = "postgresql://settle@127.0.0.1:5432"

DATA_FOLDER = Path(platformdirs.user_data_dir("settle"))
"""The default data folder of the embedded stack, commands, and file mails."""

PAUSE_S_MAX = 86_400.0

MAIL_PAUSE_S_MAX = 300.0
"""What the pauses between attempts to send a mail grow to: a greylisting server wants five minutes."""

Pause = Annotated[float, Field(ge=0, le=PAUSE_S_MAX, allow_inf_nan=False)]


# One variable for each database that the registry knows: SETTLE_ACCOUNT_DSN and so on.
_FIELDS: Any = {
    f"{name}_dsn": (
        Dsn,
        Field(f"{DEFAULT_DSN}/{name}", repr=False, description=f"database of the {name} service"),
    )
    for name in DATABASES
}
_Databases = create_model("_Databases", __base__=Settings, **_FIELDS)


class ServiceSettings(_Databases):
    """The settings of every service. An invalid variable stops the service at its start, and is named."""

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers, host:port, comma-separated")

    kafka_group_protocol: Protocol = Field(
        CONSUMER, description="of the services' consumer groups; classic for Kafka 3, Redpanda and the like"
    )

    http_host: str = Field("127.0.0.1", description="where /healthz, /readyz and /metrics listen")
    http_port: int = Field(0, ge=0, le=65535, description="their port; 0 = none")

    batch_max: int = Field(8_000, ge=1, le=50_000, description="messages in one transaction at the most")
    # Decoded here and not by pydantic-settings, whose error is one of its own and does not say what is wrong.
    retry_backoff_s: Annotated[tuple[Pause, ...], NoDecode] = Field(
        (1.0, 2.0, 4.0, 8.0, 16.0),
        min_length=1,
        max_length=20,
        description="pauses before each further attempt, seconds",
    )
    retry_jitter: float = Field(
        0.2, ge=0, lt=1, allow_inf_nan=False, description="how far a pause may be off, as a share of it"
    )
    deadline_s: float = Field(
        600.0, gt=0, le=PAUSE_S_MAX, description="how long after its first attempt a payment is tried, seconds"
    )

    stuck_s: float = Field(
        60.0,
        gt=0,
        le=PAUSE_S_MAX,
        description="a withdrawal without an event for so long is stuck, seconds",
    )

    mailer: Literal["file", "smtp", "off"] | None = Field(
        None, description="how mail leaves; default: smtp when SETTLE_SMTP_HOST is set, else file"
    )
    data: Path = Field(DATA_FOLDER, description="data folder; file mails go to its mail/")
    smtp_host: str | None = Field(None, description="SMTP server")
    smtp_port: int = Field(25, ge=1, le=65535, description="its port")
    # Its row is locked meanwhile, which the database ends soon after.
    smtp_timeout_s: float = Field(10.0, gt=0, le=25, allow_inf_nan=False, description="for one mail, seconds")
    mail_lifetime_h: float = Field(
        120.0, gt=0, le=720, description="age from which on a mail that cannot be sent has failed, hours"
    )
    mail_from: str = Field("settle@localhost", description="sender of mails")
    mail_to: str = Field("{account_id}@localhost", description="recipient; {account_id} is filled in")

    provider_url: AnyHttpUrl | None = Field(
        None, repr=False, description="payment provider as an HTTP service; default: in this process"
    )
    provider_timeout_s: float = Field(5.0, gt=0, le=60, description="for one answer of the provider, seconds")
    provider_connections: int = Field(32, ge=1, le=1000, description="calls to the provider under way at most")
    provider_latency_ms: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="simulated provider: time for one batch of charges"
    )
    provider_decline_share: float = Field(0.0, ge=0, le=1, description="simulated provider: share declined")
    provider_outage_share: float = Field(0.0, ge=0, le=1, description="simulated provider: share unavailable")

    @field_validator("retry_backoff_s", mode="before")
    @classmethod
    def _is_a_json_list(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("not a JSON list such as [1, 2, 4]") from None

    @field_validator("mail_to")
    @classmethod
    def _is_an_address_for_every_account(cls, template: str) -> str:
        try:
            recipient(template, "acc-1")
        except (LookupError, AttributeError):
            raise ValueError("the only placeholder is {account_id}") from None
        except ValueError as error:
            raise ValueError(f"not an address such as {{account_id}}@bank.example: {error}") from None
        return template

    @field_validator("mail_from")
    @classmethod
    def _is_an_address(cls, sender: str) -> str:
        message = EmailMessage()
        message["From"] = sender
        if [bool(address.domain) for address in message["From"].addresses] != [True]:
            raise ValueError("not an address such as settle@bank.example")
        return sender

    def retry_policy(self) -> RetryPolicy:
        """When to retry what failed for now."""
        return RetryPolicy(self.retry_backoff_s, self.retry_jitter)

    def mail_retry_policy(self) -> RetryPolicy:
        """When to retry a mail: after the same pauses, then doubled ones, up to :data:`MAIL_PAUSE_S_MAX`."""
        backoff_s = list(self.retry_backoff_s)
        while backoff_s[-1] < MAIL_PAUSE_S_MAX:
            backoff_s.append(min(max(2 * backoff_s[-1], 1.0), MAIL_PAUSE_S_MAX))
        return RetryPolicy(backoff_s, self.retry_jitter)

    def dsn(self, service: str) -> str:
        """The DSN of a database of :data:`contracts.services.DATABASES`."""
        return str(getattr(self, f"{service}_dsn"))


def recipient(template: str, account_id: str) -> str:
    """The mail address of an account, quoted where the account ID needs it: ``"a:1"@bank.example``.

    Raises:
        LookupError, AttributeError: a placeholder other than ``{account_id}``.
        ValueError: the result is not an address.
    """
    local, at, domain = (part.format(account_id=account_id) for part in template.rpartition("@"))
    if not (local and at and domain):
        raise ValueError("something must stand on both sides of the @")
    # Unquoted, a colon would make it a group of addresses, which no mail server takes.
    return Address(username=local, domain=domain).addr_spec
