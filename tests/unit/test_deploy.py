"""Prometheus and Grafana ask for what the services say, and every alert has a page."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import api.instrumentation
import processors.runtime.metrics
import tracing.delivery
from contracts.dsn import split_dsns
from contracts.services import NAMES
from outbox_relay.health import SourceMetrics
from outbox_relay.names import source_name

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS, GRAFANA = DEPLOY / "prometheus", DEPLOY / "grafana"

OF_PROMETHEUS = {"up"}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
ALERTS = (
    "SettleStuckWithdrawals",
    "SettleRelayLag",
    "SettleRelayDown",
    "SettleRelayPaused",
    "SettleRelayNotCovering",
    "SettleDeadLetters",
    "SettleGaps",
    "SettleOutboxDeadRows",
    "SettleSlotRetention",
    "SettleConsumerLag",
    "SettleServiceDown",
    "SettlePaymentRetries",
)


def kinds() -> dict[str, str]:
    """Every metric that a service or the relay has, and of what kind it is."""
    assert api.instrumentation
    assert processors.runtime.metrics
    assert tracing.delivery
    return {metric.name: metric.type for metric in (*REGISTRY.collect(), *SourceMetrics(list).collect())}


def exposed() -> set[str]:
    """Every series that a service or the relay can have."""
    return {name + suffix for name, kind in kinds().items() for suffix in SUFFIXES.get(kind, ("",))}


def asked_for(expression: str) -> set[str]:
    """The names of series in an expression: words that are no function, no label, no keyword."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", "", bare)
    words = re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*(?!\s*\(|[A-Za-z0-9_:])", bare)
    return {word for word in words if word not in ("or", "and", "unless", "e", "by", "sum", "max", "min", "count")}


def rules():
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return group["rules"]


def dashboard():
    (path,) = (GRAFANA / "dashboards").glob("*.json")
    return json.loads(path.read_text())


def expressions():
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_an_expressions_series_are_found():
    expression = (
        'sum by (le, service) (rate(settle_a_total{x="settle_b"}[5m] offset 1m)) > 1 or max(settle_c) == 1'
    )
    assert asked_for(expression) == {"settle_a_total", "settle_c"}


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=[name for name, _ in expressions()])
def test_every_series_that_is_asked_for_exists(where, expression):
    found = asked_for(expression)
    assert found
    assert found <= exposed() | OF_PROMETHEUS, where


def test_every_metric_of_a_service_is_on_the_dashboard():
    shown = set().union(*(asked_for(expression) for _, expression in expressions()))
    ours = {name: kind for name, kind in kinds().items() if name.startswith("settle_")}
    ours = {name: kind for name, kind in ours.items() if not name.startswith("settle_provider_")}
    unseen = {n for n, kind in ours.items() if not {n + suffix for suffix in SUFFIXES[kind]} & shown}
    assert not unseen


def test_there_are_these_alerts_and_each_says_what_it_is_and_where_its_page_is():
    assert tuple(rule["alert"] for rule in rules()) == ALERTS
    for rule in rules():
        notes = rule["annotations"]
        assert notes["summary"]
        assert notes["description"]
        assert notes["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_panels_fill_their_rows_and_do_not_overlap():
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_grafana_reads_the_datasources_that_the_dashboard_names_and_exemplars_lead_to_jaeger():
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "settle.yml").read_text())["datasources"]
    by_uid = {source["uid"]: source for source in sources}
    assert by_uid["prometheus"]["url"] == "http://prometheus:9090"
    assert by_uid["jaeger"]["url"] == "http://jaeger:16686"
    (link,) = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert (link["name"], link["datasourceUid"]) == ("trace_id", "jaeger")
    used = {t["datasource"]["uid"] for p in dashboard()["panels"] for t in p.get("targets", ())}
    assert used <= set(by_uid)


def test_prometheus_scrapes_every_service_by_name():
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "settle"]
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) == {"account", "payment", "notification", "saga", "api", "relay"}
    assert (found["type"], found["port"]) == ("A", 8080)
    assert {"source_labels": ["__meta_dns_name"], "target_label": "service"} in job["relabel_configs"]


def test_a_service_that_is_gone_is_missed_by_name():
    (expression,) = (rule["expr"] for rule in rules() if rule["alert"] == "SettleServiceDown")
    assert re.findall(r'absent\(up\{job="settle", service="(\w+)"\}\)', expression) == [*NAMES, "relay"]


def test_an_outbox_that_no_relay_is_configured_with_is_missed_by_name():
    """Its source is called by its database."""
    (expression,) = (rule["expr"] for rule in rules() if rule["alert"] == "SettleRelayDown")
    assert re.findall(r'absent\(settle_relay_active\{source="(\w+)"\}\)', expression) == list(NAMES)
    compose = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())
    relay = compose["services"]["relay"]
    sources = re.sub(r"\$\{[^}]*\}", "x", relay["environment"]["SETTLE_RELAY_SOURCES"])
    assert [source_name(one) for one in split_dsns(sources)] == list(NAMES)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")], ids=" ".join
)
def test_promtool_finds_no_fault(arguments):
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
