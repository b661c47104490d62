"""A connector's settings from the file that its users have, by Kafka Connect's names.

What Connect's REST API takes and answers (``{"name": …, "config": {…}}``), the bare map, as JSON or as properties,
Strimzi's ``KafkaConnector`` as JSON, and Debezium Server's ``application.properties``, whose names are translated.

Source: java.util.Properties.load; Debezium documentation, "Debezium Server".
"""

import json
import re
from typing import Any

ROUTER = "io.debezium.transforms.outbox.EventRouter"
PRODUCER = "producer.override."
_SERVER = "debezium."
_SINK = "debezium.sink.kafka.producer."
_JSON_CONVERTER = "org.apache.kafka.connect.json.JsonConverter"
# What Debezium Server calls the converters.
_FORMATS = {
    "json": _JSON_CONVERTER,
    "jsonbytearray": _JSON_CONVERTER,
    "simplestring": "org.apache.kafka.connect.storage.StringConverter",
    "binary": "io.debezium.converters.BinaryDataConverter",
    "avro": "io.confluent.connect.avro.AvroConverter",
    "protobuf": "io.confluent.connect.protobuf.ProtobufConverter",
    "cloudevents": "io.debezium.converters.CloudEventsConverter",
}
_KUBERNETES = re.compile(r"^(apiVersion|kind):", re.MULTILINE)
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


class NoConnectorError(ValueError):
    """A file that holds no connector's settings."""


def read(text: str) -> dict[str, str]:
    """The settings in a file.

    Raises:
        NoConnectorError: there are none; the text says why.
    """
    text = text.removeprefix("\ufeff")
    if _KUBERNETES.search(text):
        raise NoConnectorError("it is YAML: kubectl get kafkaconnector NAME -o json gives what can be read here")
    settings = _from_json(text) if text.lstrip().startswith(("{", "[")) else properties(text)
    if any(name.startswith(f"{_SERVER}source.") for name in settings):
        settings = _from_server(settings)
    if not any(name.startswith(("transforms", "database.", "connector.")) for name in settings):
        raise NoConnectorError(
            "it has no settings of a connector: neither JSON for Kafka Connect nor properties of Debezium Server"
        )
    return settings


def _from_json(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise NoConnectorError(f"it is no JSON: {error}") from None
    except RecursionError:
        raise NoConnectorError("it is no connector's JSON: it is nested too deeply") from None
    return {str(name): _text(value) for name, value in _config(found).items() if value is not None}


def _config(found: Any) -> dict[str, Any]:
    """The map of settings in what REST API, its list of connectors, or Kubernetes (Strimzi) say of one.

    Raises:
        NoConnectorError: they say it of several.
    """
    if isinstance(found, list):
        several = found
    elif isinstance(found.get("items"), list):
        several = found["items"]
    elif found and all(isinstance(one, dict) and "info" in one for one in found.values()):
        several = [one["info"] for one in found.values()]
    else:
        several = [found]
    if len(several) > 1:
        raise NoConnectorError(f"it has {len(several)} connectors: give one at a time")
    one = several[0] if several and isinstance(several[0], dict) else {}
    if isinstance(spec := one.get("spec"), dict) and isinstance(spec.get("config"), dict):
        return {"connector.class": spec.get("class"), **spec["config"]}
    return one["config"] if isinstance(one.get("config"), dict) else one


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _from_server(settings: dict[str, str]) -> dict[str, str]:
    """Debezium Server's settings by Connect's names; what has none there keeps its own."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if name.startswith(f"{_SERVER}source."):
            found[name.removeprefix(f"{_SERVER}source.")] = value
        elif name.startswith((f"{_SERVER}transforms", f"{_SERVER}predicates")):
            found[name.removeprefix(_SERVER)] = value
        elif name.startswith(_SINK):
            found[PRODUCER + name.removeprefix(_SINK)] = value
        elif not re.match(r"debezium\.format\.(key|value|header)\b", name):
            found[name] = value
    for part in ("key", "value", "header"):
        prefix = f"{_SERVER}format.{part}"
        kind = settings.get(prefix, "json").strip().lower()
        found[f"{part}.converter"] = _FORMATS.get(kind, kind)
        for name, value in settings.items():
            if name.startswith(f"{prefix}."):
                found[f"{part}.converter.{name.removeprefix(f'{prefix}.')}"] = value
    return found


def properties(text: str) -> dict[str, str]:
    """What a Java properties file says."""
    found = {}
    lines = iter(text.splitlines())
    for line in lines:
        line = line.lstrip()
        if not line or line[0] in "#!":
            continue
        while len(line) - len(line.rstrip("\\")) & 1:
            line = line[:-1] + next(lines, "").lstrip()
        name, value = re.match(r"((?:\\.|[^\\=:\s])*)\s*[=:]?\s*(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
        found[_unescaped(name)] = _unescaped(value)
    return found


def _unescaped(text: str) -> str:
    return re.sub(
        r"\\(?:u([0-9a-fA-F]{4})|(.))", lambda m: chr(int(m[1], 16)) if m[1] else _ESCAPES.get(m[2], m[2]), text
    )
