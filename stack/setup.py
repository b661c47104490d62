"""The work that only a first start takes: ``python -m stack.setup`` fetches Kafka, trains its Java.

A broker that stops writes down which classes it loaded, how they were linked and which methods were hot (JEP 483,
514 and 515), and brokers that start from this file are ready a second sooner. Without it they start as well.
"""

import os
import sys
import tempfile
from pathlib import Path

from stack.errors import StackError
from stack.jars import kafka_jars
from stack.kafka import training
from stack.supervisor import Stack, to_stderr


def set_up() -> None:
    """Fetch Kafka's jars and make the file that its Java starts from, unless they are there.

    Raises:
        StackError: Kafka could not be fetched or started.
    """
    made = training(kafka_jars(to_stderr))
    if made.exists():
        return
    to_stderr("letting Apache Kafka run for a moment, so that it starts sooner (once)…")
    with tempfile.TemporaryDirectory(dir=made.parent) as aside:
        # The server that runs beside it may run as another user, who has to get in.
        os.chmod(aside, 0o755)
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
