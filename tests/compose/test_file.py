"""The rules that docker-compose.yml keeps: loopback ports, limits, probes, restarts, and a stack that is whole."""

import json

import pytest

from contracts.services import NAMES
from tests.compose.conftest import Compose

NEVER = "0001-01-01T00:00:00Z"
"""What Docker says of a container that was created and not started."""

ONE_SHOTS = {"preflight", "secrets", "prepare", "settle"}
SHOW_PAGES = {"jaeger", "mailpit", "prometheus", "grafana"}


@pytest.fixture(scope="module")
def services(engine):
    every_profile = ("--profile", "*")
    return json.loads(Compose("settle-test-file")(*every_profile, "config", "--format=json"))["services"]


def test_no_port_is_reachable_from_outside(services):
    published = [port for service in services.values() for port in service.get("ports", [])]

    assert len(published) == 5
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_each_of_several_instances_of_the_api_can_have_a_port(engine):
    several = Compose("settle-test-file", API_PORT="8000-8009")
    (port,) = json.loads(several("config", "--format=json"))["services"]["api"]["ports"]
    assert (port["published"], port["target"]) == ("8000-8009", 8000)


def test_every_container_has_a_memory_limit_and_bounded_logs(services):
    assert [name for name, service in services.items() if not int(service.get("mem_limit", 0))] == []
    assert [name for name, service in services.items() if "max-size" not in service["logging"]["options"]] == []


def test_whatever_keeps_running_is_probed_and_restarted(services):
    lasting = {name: service for name, service in services.items() if name not in ONE_SHOTS}

    assert [name for name, service in lasting.items() if "test" not in service.get("healthcheck", {})] == []
    assert {service.get("restart") for service in lasting.values()} == {"unless-stopped"}


def test_every_container_of_ours_may_write_nowhere_and_do_little(services):
    ours = [service for service in services.values() if service["image"] == "settle"]

    assert len(ours) == 10
    assert all(service["read_only"] for service in ours)


def test_no_container_gains_privileges_or_has_capabilities_but_the_one_that_gives_secrets_away(services):
    assert all(service["cap_drop"] == ["ALL"] for service in services.values())
    assert all(service["security_opt"] == ["no-new-privileges:true"] for service in services.values())
    assert {name for name, service in services.items() if "cap_add" in service} == {"secrets"}
    assert {name for name, service in services.items() if service.get("user") == "0:0"} == {"secrets"}


def test_every_containers_processes_and_temporary_files_are_limited(services):
    assert [name for name, service in services.items() if not service.get("pids_limit")] == []
    # Jaeger's is a volume: its traces.
    assert [name for name, service in services.items() if name != "jaeger" and "tmpfs" not in service] == []


def test_what_shows_pages_reaches_neither_kafka_nor_a_database(services):
    networks = {name: set(service.get("networks", ())) for name, service in services.items()}
    guarded = networks["kafka"].union(*(found for name, found in networks.items() if name.startswith("postgres-")))
    assert guarded == {"kafka", "postgres"}
    for name in SHOW_PAGES:
        assert networks[name]
        assert not networks[name] & guarded
    assert {name for name, found in networks.items() if "web" in found} == SHOW_PAGES
    assert {name for name, found in networks.items() if "front" in found} == {"api"}
    assert {name for name, service in services.items() if service.get("network_mode") == "none"} == {
        "preflight",
        "secrets",
    }


def test_kafka_lets_nobody_in_without_a_password_or_a_certificate(services):
    kafka = services["kafka"]["environment"]
    listeners = dict(one.split("://") for one in kafka["KAFKA_LISTENERS"].split(","))
    protocols = dict(one.split(":") for one in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    beyond = {name for name, place in listeners.items() if not place.startswith("localhost:")}
    assert {name: protocols[name] for name in beyond} == {"CLIENT": "SASL_SSL", "ADMIN": "SSL"}
    assert listeners["CONTROLLER"].startswith("localhost:")
    assert "ANONYMOUS" not in kafka["KAFKA_SUPER_USERS"]
    for name in ("ADMIN", "CONTROLLER"):
        assert kafka[f"KAFKA_LISTENER_NAME_{name}_SSL_CLIENT_AUTH"] == "required"


def test_each_service_is_a_user_of_its_own_with_its_own_secrets(services):
    for name in (*NAMES, "relay"):
        environment, volumes = services[name]["environment"], services[name]["volumes"]
        assert environment["SETTLE_KAFKA_SASL_USERNAME"] == name
        secrets = [one["source"] for one in volumes if one["target"] == "/run/secrets/settle"]
        assert secrets == [f"secrets-{name}"]


def test_every_image_of_others_has_a_version(services):
    assert [service["image"] for service in services.values() if ":" not in service["image"]] == ["settle"] * 10


def test_production_with_development_defaults_starts_nothing():
    compose = Compose("settle-test-refused", SETTLE_ENV="production")
    try:
        result = compose.run("up", "--build", "--detach", timeout=600)

        assert result.returncode != 0
        started = [one["Name"] for one in compose.containers() if one["State"]["StartedAt"] > NEVER]
        assert [name.strip("/") for name in started] == ["settle-test-refused-preflight-1"]
        assert "SETTLE_ENV=production refuses the development defaults of" in compose("logs", "preflight")
    finally:
        compose("down", "--volumes")
