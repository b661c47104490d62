"""What is written by hand about services says what the registry does."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from contracts.failpoints import FAILPOINTS
from contracts.services import (
    DATABASES,
    FOLDERS,
    NAMES,
    PROCESSORS,
    PROVIDER,
    REQUESTS,
    SERVICES,
    TOPICS,
    WRITTEN_BY,
)
from operations.audit.story import _WRITTEN_BY
from outbox_relay.settings import RelaySettings
from outbox_relay.topic import topic_named
from processors.runtime.settings import ServiceSettings
from processors.runtime.worker import load_app

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def variables(names):
    return {f"SETTLE_{name.upper()}_DSN" for name in names}


@pytest.mark.parametrize("service", PROCESSORS, ids=lambda service: service.name)
def test_a_processor_is_what_its_record_says(service):
    load_app(service.name)
    (processor,) = [
        found
        for found in vars(import_module(f"processors.{service.name}.processor")).values()
        if isinstance(found, type) and vars(found).get("name") == service.name
    ]
    assert processor.topics == service.reads
    readable = {event_type for topic in service.reads for event_type in topic.event_types}
    assert set(processor.handles) <= readable


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_services_own_failpoints_are_listed(service):
    for place in service.failpoints:
        assert f"{service.name}.{place}" in FAILPOINTS


def test_events_of_a_topic_are_emitted_by_one_processor_and_requests_by_none():
    emitted = [topic for service in PROCESSORS for topic in service.emits]
    assert len({topic.name for topic in TOPICS}) == len(TOPICS) == len(REQUESTS) + len(emitted)
    assert not set(REQUESTS) & set(emitted)
    assert [service.name for service in SERVICES if set(service.emits) & set(REQUESTS)] == ["api"]


def test_the_relay_puts_the_rows_of_a_service_on_the_topics_that_it_emits():
    for service in SERVICES:
        for topic in service.emits:
            assert topic_named(topic.aggregate.encode()) == topic.name


def test_the_audit_judges_events_by_whose_they_are():
    assert _WRITTEN_BY.items() <= WRITTEN_BY.items()


@pytest.mark.parametrize("database", DATABASES)
def test_a_database_has_migrations_and_grants(database):
    assert (ROOT.joinpath(*FOLDERS[database].split(".")) / "migrations" / "v0001_initial.py").exists()
    assert "GRANT" in import_module(f"{FOLDERS[database]}.grants").GRANTS


def test_compose_runs_each_service_with_its_database_and_relays_it():
    assert {name for name, part in COMPOSE.items() if part.get("command") == ["run", name]} == {*NAMES, "relay"}
    for name in NAMES:
        assert f"://{name}:" in COMPOSE[name]["environment"][f"SETTLE_{name.upper()}_DSN"]
    relayed = re.findall(r"@postgres-(\w+)/(\w+)", COMPOSE["relay"]["environment"]["SETTLE_RELAY_SOURCES"])
    assert relayed == [(name, name) for name in NAMES]
    for part in ("settle", "prepare"):
        assert variables(DATABASES) <= COMPOSE[part]["environment"].keys()


@pytest.mark.parametrize("database", DATABASES)
def test_compose_has_a_server_for_each_database(database):
    server = COMPOSE[f"postgres-{database}"]
    assert server["environment"]["SETTLE_DATABASE"] == database
    assert f"SETTLE_{database.upper()}_PASSWORD" in server["environment"]["SETTLE_SERVICE_PASSWORD"]
    assert f"postgres-{database}:/var/lib/postgresql" in server["volumes"]
    assert f"postgres-{database}" in COMPOSE["prepare"]["depends_on"]


@pytest.mark.parametrize("name", ["api", "settle"])
def test_compose_has_audits_compare_on_disk(name):
    part = COMPOSE[name]
    folder = part["environment"]["TMPDIR"]
    (volume,) = (volume for volume in part["volumes"] if volume.endswith(f":{folder}"))
    assert not volume.startswith((".", "/"))
    assert not any(place.startswith(folder) for place in part["tmpfs"])


def test_prometheus_asks_each_service():
    asked = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert asked["dns_sd_configs"][0]["names"] == [*NAMES, "relay"]


def test_each_database_has_its_variable():
    assert variables(DATABASES) <= {f"SETTLE_{name.upper()}" for name in ServiceSettings.model_fields}
    assert variables(NAMES) <= {f"SETTLE_{name.upper()}" for name in RelaySettings.model_fields}
    told = (ROOT / "docs" / "configuration.md").read_text()
    assert [name for name in variables(DATABASES) if f"`{name}`" not in told] == []


def test_the_bank_has_no_outbox():
    assert PROVIDER not in NAMES
    assert f"SETTLE_{PROVIDER.upper()}_DSN" not in {f"SETTLE_{n.upper()}" for n in RelaySettings.model_fields}
