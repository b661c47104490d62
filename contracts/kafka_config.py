"""``SETTLE_KAFKA_CONFIG``: further properties of librdkafka, as a JSON object, or as the file that it names."""

import json
from collections.abc import Iterator
from pathlib import Path

from contracts.variables import EnvironmentRefusedError

CONFIG = "SETTLE_KAFKA_CONFIG"


def read_config(config: str) -> dict[str, str]:
    """The properties, by name.

    Args:
        config: the variable's value: a JSON object, or the path of a file of one or of lines ``name=value``.

    Raises:
        EnvironmentRefusedError: it is neither; the text is one line.
    """
    text = config
    if not text.lstrip().startswith("{"):
        try:
            text = Path(config).read_text()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise EnvironmentRefusedError(
                f"{CONFIG}={config} is wrong: neither a JSON object nor a file that can be read: {reason}"
            ) from None
    if not text.lstrip().startswith("{"):
        return dict(_lines(text))
    try:
        found = json.loads(text)
    except ValueError as error:
        raise EnvironmentRefusedError(f"{CONFIG} is wrong: not a JSON object: {error}") from None
    return {name: _plain(name, value) for name, value in found.items()}


def _plain(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise EnvironmentRefusedError(f"{CONFIG} is wrong: the value of {name} is neither text nor a number")


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#!":
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise EnvironmentRefusedError(f"{CONFIG} is wrong: line {number} is not name=value")
        yield name.strip(), value.strip()
