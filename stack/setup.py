"""One-time set-up: ``python -m stack.setup`` fetches Kafka and PostgreSQL with TLS, and trains Kafka's Java.

A broker that stops records which classes it loaded, how they were linked and which methods were hot (JEP 483,
514 and 515); brokers that start with this file are ready a second sooner. They also start without it.
"""

import os
import sys
import tempfile
from pathlib import Path

from stack.errors import StackError
from stack.jars import kafka_jars, postgres_with_tls
from stack.kafka import training
from stack.supervisor import Stack, to_stderr


def set_up() -> None:
    """Fetch Kafka's jars and PostgreSQL with TLS, and make the AOT cache of Kafka's Java, unless they exist.

    Raises:
        StackError: one could not be fetched, or Kafka not be started.
    """
    postgres_with_tls(to_stderr)
    made = training(kafka_jars(to_stderr))
    if made.exists():
        return
    to_stderr("letting Apache Kafka run for a moment, so that it starts sooner (once)…")
    with tempfile.TemporaryDirectory(dir=made.parent) as aside:
        # PostgreSQL may run beside it as another user, who needs access.
        os.chmod(aside, 0o755)  # noqa: S103 of a folder that holds no secret
        new = Path(aside, made.name)
        with Stack(Path(aside, "data"), services=(), java_options=[f"-XX:AOTCacheOutput={new}"]):
            pass
        if new.exists():
            new.rename(made)


if __name__ == "__main__":
    try:
        set_up()
    except StackError as error:
        sys.exit(f"settle: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
