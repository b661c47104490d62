"""The plan of a relay: the sources that it carries, of options, variables and the configuration file.

An option outweighs a variable, a variable the file, the file the default. What an outbox is (its table, columns,
route, names) is said in one place: in the file, or by options and variables for an outbox that each database has.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from contracts.production import CONFIGURED, refuse_unsafe
from contracts.redaction import remember
from contracts.variables import FILE, PREFIX, is_secret
from outbox_relay.config import ConfigFile, ConfigurationError, OutboxTable, SourceTable, read
from outbox_relay.errors import RelayError
from outbox_relay.names import named
from outbox_relay.outbox import Outbox
from outbox_relay.settings import OF_AN_OUTBOX, RelaySettings
from outbox_relay.source_settings import SourceSettings


@dataclass(frozen=True)
class Plan:
    """What a relay does.

    Attributes:
        settings: of the process.
        sources: one of each outbox, each with a name of its own.
    """

    settings: RelaySettings
    sources: tuple[SourceSettings, ...]


def plan(settings: RelaySettings) -> Plan:
    """Read the configuration file, if there is one, and put all together.

    What the file says of Kafka's identity is set as variables of this process, as every client reads them there.

    Raises:
        RelayError: the file is wrong, contradicts an option or variable, or there is no source.
        EnvironmentRefusedError: production refuses what the file says.
    """
    if settings.relay_config is None:
        return Plan(settings, named(_of_variables(settings)))
    file = read(settings.relay_config)
    _assume_identity(file)
    if file.http.token is not None:
        remember(file.http.token)
    settings = _with(settings, file)
    sources = named(list(_of_file(settings, file)) if file.source else _of_variables(settings))
    _refuse_unsafe(settings, sources)
    return Plan(settings, sources)


def _of_variables(settings: RelaySettings) -> list[SourceSettings]:
    if not settings.sources:
        raise RelayError(
            "no source: pass --source or --config, or set SETTLE_RELAY_SOURCES or the like of SETTLE_ACCOUNT_DSN "
            "(URLs)"
        )
    outbox = settings.outbox()
    if outbox.slot is not None and len(settings.sources) > 1:
        raise RelayError("SETTLE_RELAY_SLOT (--slot) is one slot, and there are several databases: leave it out")
    return [
        SourceSettings(
            dsn,
            settings.kafka_bootstrap,
            outbox,
            settings.relay_reader,
            settings.relay_cleanup,
            settings.relay_fencing,
            settings.relay_initial,
            settings.relay_poll_interval_s,
        )
        for dsn in settings.sources
    ]


def _of_file(settings: RelaySettings, file: ConfigFile) -> Iterable[SourceSettings]:
    given = settings.model_fields_set
    if twice := sorted(given & {"relay_sources", *OF_AN_OUTBOX}):
        names = ", ".join(f"{PREFIX}{name}".upper() for name in twice)
        raise ConfigurationError(f"{settings.relay_config} has sources, so {names} (or the option) may not be set")
    for source in file.source:
        for one in source.outbox:
            for share in one.outbox().split(one.split):
                yield _merged(settings, source, one, share)


def _merged(settings: RelaySettings, source: SourceTable, one: OutboxTable, outbox: Outbox) -> SourceSettings:
    given = settings.model_fields_set

    def said(key: str) -> object:
        variable = f"relay_{key}"
        in_file = (getattr(table, key) for table in (one, source))
        own = getattr(settings, variable)
        return own if variable in given else next((value for value in in_file if value is not None), own)

    return SourceSettings(
        source.dsn,
        settings.kafka_bootstrap,
        outbox,
        **{key: said(key) for key in ("reader", "cleanup", "fencing", "initial", "poll_interval_s")},  # type: ignore[arg-type]
        name=one.name if one.name is None or outbox.share is None else f"{one.name}-{outbox.share.number}",
    )


def _with(settings: RelaySettings, file: ConfigFile) -> RelaySettings:
    """The settings of the process, with what the file says where no variable or option does."""
    said = {
        "kafka_bootstrap": dict(file.kafka).get("bootstrap"),
        "relay_processes": file.relay.processes,
        "http_host": file.http.host,
        "http_port": file.http.port,
        "relay_http_token": file.http.token,
    }
    new = {
        name: value for name, value in said.items() if value is not None and name not in settings.model_fields_set
    }
    # What is given stays what was given: the copy would count the new as given too.
    copy = settings.model_copy(update=new)
    copy.__pydantic_fields_set__.difference_update(new)
    return copy


def _assume_identity(file: ConfigFile) -> None:
    for key, value in file.kafka:
        name = f"{PREFIX}KAFKA_{key}".upper()
        if value is None or key == "bootstrap" or os.environ.get(name) or os.environ.get(name + FILE):
            continue
        if is_secret(name):
            remember(value)
        os.environ[name] = value


def _refuse_unsafe(settings: RelaySettings, sources: Iterable[SourceSettings]) -> None:
    """Refuse of the file what production refuses of variables."""
    held = {"SETTLE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap, "SETTLE_HTTP_HOST": settings.http_host}
    held["SETTLE_HTTP_PORT"] = str(settings.http_port)
    refuse_unsafe({**held, CONFIGURED: "\n".join(one.dsn for one in sources)})
