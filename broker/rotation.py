"""Detection of credentials and certificates that have changed on disk, so that clients are made anew with them.

librdkafka reads them once, when a client is made. Files are replaced one after the other, certificate and key for
example: what does not fit together yet is not taken, and the clients there are go on meanwhile.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from broker import security
from broker.security import KafkaSettingsError

LOOK_EVERY_S = 5.0
"""How often the files are looked at: some small ones."""


class Rotation:
    """Whether the identity at a Kafka is another than before.

    Args:
        bootstrap: Kafka's address.
        tell: called with a line where a new identity cannot be used, once for each reason.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        bootstrap: str,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bootstrap = bootstrap
        self._tell = tell
        self._clock = clock
        self._told: str | None = None
        self._look_at = clock() + LOOK_EVERY_S
        self._known = self._fingerprint()

    def is_due(self) -> bool:
        """Whether clients are to be made anew: there is another identity, and it can be used. True once for each.

        Looks once per :data:`LOOK_EVERY_S`.
        """
        now = self._clock()
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_EVERY_S
        try:
            found = self._fingerprint()
            if found == self._known:
                return False
            security.check(self._bootstrap)
        except KafkaSettingsError as error:
            if str(error) != self._told:
                self._told = str(error)
                self._tell(f"the Kafka identity has changed and cannot be used, the one before stays: {error}")
            return False
        self._known, self._told = found, None
        return True

    def _fingerprint(self) -> bytes:
        found = security.properties(self._bootstrap)
        digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode())
        for name in security.FILES:
            if name in found:
                try:
                    digest.update(Path(found[name]).read_bytes())
                except OSError as error:
                    # A folder of authorities, or a file that is being replaced.
                    digest.update(str(error.strerror).encode())
        return digest.digest()
