"""The rules that docker-compose.yml keeps: loopback ports, limits, probes, restarts, and a stack that is whole."""

import json

import pytest

from tests.compose.conftest import Compose

NEVER = "0001-01-01T00:00:00Z"
"""What Docker says of a container that was created and not started."""

ONE_SHOTS = {"preflight", "prepare", "settle"}


@pytest.fixture(scope="module")
def services(engine):
    every_profile = ("--profile", "*")
    return json.loads(Compose("settle-test-file")(*every_profile, "config", "--format=json"))["services"]


def test_no_port_is_reachable_from_outside(services):
    published = [port for service in services.values() for port in service.get("ports", [])]

    assert len(published) == 4
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_every_container_has_a_memory_limit_and_bounded_logs(services):
    assert [name for name, service in services.items() if not int(service.get("mem_limit", 0))] == []
    assert [name for name, service in services.items() if "max-size" not in service["logging"]["options"]] == []


def test_whatever_keeps_running_is_probed_and_restarted(services):
    lasting = {name: service for name, service in services.items() if name not in ONE_SHOTS}

    assert [name for name, service in lasting.items() if "test" not in service.get("healthcheck", {})] == []
    assert {service.get("restart") for service in lasting.values()} == {"unless-stopped"}


def test_every_container_of_ours_may_write_nowhere_and_do_little(services):
    ours = [service for service in services.values() if service["image"] == "settle"]

    assert len(ours) == 8
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in ours)
    assert all(service["security_opt"] == ["no-new-privileges:true"] for service in ours)


def test_every_image_of_others_has_a_version(services):
    assert [service["image"] for service in services.values() if ":" not in service["image"]] == ["settle"] * 8


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
