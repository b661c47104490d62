"""Downloads from Maven Central, once, into the user's cache folder: Kafka's jars, and PostgreSQL with TLS."""

import fcntl
import os
import platform
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs

from stack.durable import sync
from stack.errors import StackError

KAFKA_VERSION = "4.1.0"
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# The bridge from SLF4J to the Log4j that Kafka depends on; without it the broker logs nothing. It is fetched by
# itself: as a second root of the same resolution its parent's dependency management would change Kafka's versions.
LOG_BRIDGE = "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3"
# PostgreSQL that speaks TLS, as that of the Python package does not: built with OpenSSL, without client programs.
POSTGRES_VERSION = "18.6.0"
TLS_VERSION = int(POSTGRES_VERSION.partition(".")[0])
"""The major version of :func:`postgres_with_tls`."""

POSTGRES = f"io.zonky.test.postgres:embedded-postgres-binaries-{{platform}}:{POSTGRES_VERSION}"
_PROCESSORS = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64v8", "arm64": "arm64v8"}
DOWNLOADS_AT_ONCE = 6
HTTP_TIMEOUT_S = 30


def cache_folder() -> Path:
    """Where downloads are kept; ``SETTLE_CACHE`` moves it."""
    return Path(os.environ.get("SETTLE_CACHE") or platformdirs.user_cache_dir("settle"))


def kafka_jars(note: Callable[[str], None]) -> Path:
    """The folder with Kafka's jars, fetched (about 45 MB) if this is the first time; no network is needed
    afterwards.

    Args:
        note: called with a line when a download starts.

    Raises:
        StackError: they could not be fetched.
    """
    return _cached(f"kafka-{KAFKA_VERSION}", f"Apache Kafka {KAFKA_VERSION}", _fetch_kafka, note)


def postgres_with_tls(note: Callable[[str], None] = lambda _: None) -> Path:
    """The folder with the programs of a PostgreSQL that speaks TLS, fetched (15 MB) if this is the first time.

    Args:
        note: called with a line when a download starts.

    Raises:
        StackError: it could not be fetched.
    """
    name = f"postgres-{POSTGRES_VERSION}"
    return _cached(name, f"PostgreSQL {POSTGRES_VERSION} with TLS", _fetch_postgres, note) / "bin"


def jars_of(name: str, title: str, roots: Sequence[str], note: Callable[[str], None] = lambda _: None) -> Path:
    """The folder with these artifacts and what they need to run, fetched if this is the first time.

    Args:
        name: of the folder, with a version: what it holds is never fetched again.
        title: for people.
        roots: ``group:artifact:version`` each; each is resolved by itself.
        note: called with a line when a download starts.

    Raises:
        StackError: they could not be fetched.
    """
    return _cached(name, title, lambda maven, folder: _fetch_jars(maven, folder, roots), note)


def _cached(name: str, title: str, fetch: Callable[["_Maven", Path], None], note: Callable[[str], None]) -> Path:
    """A folder of the cache; one that exists is complete.

    It is filled beside its place and renamed in one step; a second process that needs it meanwhile waits for that.
    """
    folder = cache_folder() / name
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / "fetch.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                note(f"fetching {title} (once)…")
                with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
                    new = Path(aside, "new")
                    new.mkdir()
                    maven = _Maven(Path(aside, "repository"), title)
                    try:
                        fetch(maven, new)
                    except Exception as error:  # jgo raises what its HTTP client and parsers raise
                        raise StackError(f"{title} could not be fetched from {maven.hosts}: {error}") from None
                    sync(new)
                    new.rename(folder)
    except OSError as error:
        raise StackError(f"cache folder {folder.parent} cannot be used: {error}") from None
    return folder


class _Maven:
    """Maven Central, or a mirror that the user configured for jgo under the name central.

    Raises (on creation):
        StackError: jgo is not installed.
    """

    def __init__(self, repository: Path, title: str) -> None:
        try:
            # Imported here: only the first start needs it.
            from jgo.config import GlobalSettings
            from jgo.constants import MAVEN_CENTRAL_URL
            from jgo.maven import MavenContext
        except ImportError:
            raise StackError(f"{title} cannot be fetched: pip install 'settle[stack]'") from None
        remote = {"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories}
        self.hosts = ", ".join(remote.values())
        self.context = MavenContext(repo_cache=repository, remote_repos=remote, timeout=HTTP_TIMEOUT_S)


def _fetch_kafka(maven: _Maven, folder: Path) -> None:
    bridge = maven.context.create_dependency(LOG_BRIDGE).artifact.resolve()
    os.link(bridge, folder / bridge.name)
    _fetch_jars(maven, folder, [KAFKA])


def _fetch_jars(maven: _Maven, folder: Path, roots: Sequence[str]) -> None:
    from jgo.parse import Coordinate

    artifacts = {}
    for root in roots:
        wanted = maven.context.create_dependency(replace(Coordinate.parse(root), scope="compile"))
        found, transitive = maven.context.resolver.resolve([wanted])
        for needed in (*found, *(other for other in transitive if other.scope in ("compile", "runtime"))):
            artifacts[str(needed.artifact)] = needed.artifact
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        for jar in pool.map(lambda artifact: artifact.resolve(), artifacts.values()):
            os.link(jar, folder / jar.name)


def _fetch_postgres(maven: _Maven, folder: Path) -> None:
    system = "darwin" if sys.platform == "darwin" else "linux"
    processor = _PROCESSORS.get(platform.machine().lower())
    if processor is None:
        raise ValueError(f"there is none for {platform.machine()}")
    jar = maven.context.create_dependency(POSTGRES.format(platform=f"{system}-{processor}")).artifact.resolve()
    with zipfile.ZipFile(jar) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".txz"))
        with archive.open(name) as packed, tarfile.open(fileobj=packed, mode="r|xz") as files:
            # Python knows filters since 3.11.4.
            safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            files.extractall(folder, **safe)  # noqa: S202 Maven Central's, whose checksum is compared
