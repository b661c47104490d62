"""Apache Kafka's jars: downloaded from Maven Central, once, into the user's cache folder."""

import fcntl
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import platformdirs

from stack.errors import StackError

KAFKA_VERSION = "4.1.0"
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# The bridge from SLF4J to the Log4j that Kafka depends on; without it the broker logs nothing. It is fetched by
# itself: as a second root of the same resolution its parent's dependency management would change Kafka's versions.
LOG_BRIDGE = "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"
DOWNLOADS_AT_ONCE = 6
HTTP_TIMEOUT_S = 30


def cache_folder() -> Path:
    """Where downloads are kept; ``SETTLE_CACHE`` moves it."""
    return Path(os.environ.get("SETTLE_CACHE") or platformdirs.user_cache_dir("settle"))


def kafka_jars(note: Callable[[str], None]) -> Path:
    """The folder with Kafka's jars, fetched (about 45 MB) if this is the first time; no network is needed
    afterwards.

    A folder that exists is complete: jars are collected in a temporary folder that is renamed in one step, and a
    second process that needs them meanwhile waits for the first.

    Args:
        note: called with a line when a download starts.

    Raises:
        StackError: they could not be fetched.
    """
    folder = cache_folder() / f"kafka-{KAFKA_VERSION}"
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / "fetch.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                note(f"fetching Apache Kafka {KAFKA_VERSION} (once)…")
                _fetch(folder)
    except OSError as error:
        raise StackError(f"cache folder {folder.parent} cannot be used: {error}") from None
    return folder


def _fetch(folder: Path) -> None:
    try:
        # Imported here: only the first start needs it.
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext
        from jgo.parse import Coordinate
    except ImportError:
        raise StackError("Apache Kafka cannot be fetched: pip install 'settle[stack]'") from None
    # A mirror that the user configured for jgo, under the name central, replaces Maven Central.
    repositories = {"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories}
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        context = MavenContext(
            repo_cache=Path(aside, "repository"), remote_repos=repositories, timeout=HTTP_TIMEOUT_S
        )
        jars = Path(aside, "jars")
        jars.mkdir()
        try:
            bridge = context.create_dependency(LOG_BRIDGE)
            kafka = context.create_dependency(replace(Coordinate.parse(KAFKA), scope="compile"))
            roots, transitive = context.resolver.resolve([kafka])
            needed = [bridge, *roots, *(found for found in transitive if found.scope in ("compile", "runtime"))]
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                for jar in pool.map(lambda dependency: dependency.artifact.resolve(), needed):
                    os.link(jar, jars / jar.name)
        except Exception as error:  # jgo raises what its HTTP client and parsers raise
            hosts = ", ".join(repositories.values())
            raise StackError(f"Apache Kafka could not be fetched from {hosts}: {error}") from None
        jars.rename(folder)
