"""Mailers: each sends a batch of mails and returns the outcome of each.

A mail can be sent twice: this service can die between the mail server's acceptance and the commit, or the server
can accept it after the time limit. The ``Message-ID`` is the same both times, so mail systems can deduplicate.
"""

import asyncio
import gc
import math
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from email.message import EmailMessage
from itertools import count
from pathlib import Path
from typing import Protocol
from uuid import UUID

import aiosmtplib
import msgspec
import structlog

from contracts.text import REASON_MAX, clean
from processors.runtime import metrics
from processors.runtime.breaker import Breaker
from processors.runtime.calls import BUDGET_S, Calls
from processors.runtime.settings import ServiceSettings
from tracing import NO_CONTEXT, TraceContext
from tracing import attributes as names

COLLECT_EVERY = 500
"""Each message is a reference cycle; without garbage collection they add up to 100 MB."""

_made = count(1)

log = structlog.get_logger()

SMTP_CONNECTIONS_MAX = 8
"""Mails sent concurrently."""

RECIPIENT_REFUSED = frozenset({550, 551, 553})
CONTENT_REFUSED = frozenset({550, 552, 554})
"""Answers to RCPT and to DATA without an enhanced status code that are about the mail (RFC 5321, 4.3.2)."""

OF_ALL_MAIL = frozenset({"5.1.0", "5.1.7", "5.1.8"})
"""Enhanced status codes about the sender's address, among those about addresses; Postfix says 5.1.0 of it."""

SERVICE_CLOSES = 421

REFUSED_RECIPIENTS = 5
"""Recipients that are refused, with no mail accepted between, before that counts as an outage."""

ACCEPTING_S = 60.0
"""Time after an accepted mail in which no refusal counts as an outage, however many recipients meet one."""

# RFC 3463: address (1), mailbox (2), content (6); all others are about system, network, protocol and policy.
_ABOUT_THE_MAIL = re.compile(r"5\.[126]\.\d{1,3}")

# Exchange's, of an address that it does not have. With 5.7.1 Postfix also says so of clients and senders.
_NO_RECIPIENT = re.compile(r"\s*5\.4\.1\b.*Recipient address rejected", re.IGNORECASE)
_ENHANCED_STATUS = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b")

QUIT_S = 1.0
"""How long the answer to a goodbye is waited for; the mail's outcome is known by then."""


class Mail(msgspec.Struct, frozen=True):
    """One mail. Payment ID and template name it; there is never a second one with the same two.

    Attributes:
        context: the trace context that sending it continues.
        attempt: which one this is, from 1 on.
    """

    payment_id: UUID
    template: str
    recipient: str
    subject: str
    text: str
    context: TraceContext = NO_CONTEXT
    attempt: int = 1

    @property
    def message_id(self) -> str:
        """RFC 5322 ``Message-ID``, the same for every attempt."""
        return f"<{self.template}.{self.payment_id}@settle>"


class Delivered(msgspec.Struct, frozen=True):
    """The mail server accepted the mail."""


class Refused(msgspec.Struct, frozen=True):
    """Permanent failure: the address or the content was refused."""

    reason: str


class Undelivered(msgspec.Struct, frozen=True):
    """Not sent, for a reason that may pass; to be retried.

    Attributes:
        is_refusal: whether the server refused it for good (5xx), although perhaps not because of this mail.
    """

    reason: str
    is_refusal: bool = False


class NotTried(msgspec.Struct, frozen=True):
    """Not sent: the circuit is open, or the batch's time was up. Does not count as an attempt."""

    reason: str


Delivery = Delivered | Refused | Undelivered | NotTried

_OUT_OF_TIME = NotTried("the batch's time was up")
_NOT_CALLED = NotTried("circuit open after failures of the mail server, or the batch's time was up")


class Mailer(Protocol):
    """A way to send mail. Outages are outcomes, not exceptions.

    Attributes:
        attributes: of spans: the mail server.
    """

    attributes: Mapping[str, str | int]

    def capacity(self, at_most: int) -> int:
        """How many mails are worth preparing now, up to ``at_most``; none while the circuit is open."""

    async def send(self, mails: Sequence[Mail], *, probe: bool = True) -> Sequence[Delivery]:
        """Send each mail; the outcomes in the same order.

        Args:
            mails: what to send.
            probe: whether one of them may probe the server when the circuit is open, and wait for it.
        """


class NoMailer:
    """Reports every mail as delivered; for load tests."""

    attributes: Mapping[str, str | int] = {}

    def capacity(self, at_most: int) -> int:
        """All."""
        return at_most

    async def send(self, mails: Sequence[Mail], *, probe: bool = True) -> Sequence[Delivery]:  # noqa: ARG002
        """Send nothing, and report success."""
        return [Delivered()] * len(mails)


class FileMailer:
    """Writes one file a mail: ``<folder>/<payment ID>.<template>.eml``."""

    attributes: Mapping[str, str | int] = {}

    def __init__(self, folder: Path, sender: str) -> None:
        self._folder = folder
        self._sender = sender

    def capacity(self, at_most: int) -> int:
        """All."""
        return at_most

    async def send(self, mails: Sequence[Mail], *, probe: bool = True) -> Sequence[Delivery]:  # noqa: ARG002
        """Write the files, within the time budget; a repeated mail replaces its file."""
        return await asyncio.to_thread(self._write_all, mails)

    def _write_all(self, mails: Sequence[Mail]) -> list[Delivery]:
        begin_until = time.monotonic() + BUDGET_S
        return [self._write(mail) if time.monotonic() < begin_until else _OUT_OF_TIME for mail in mails]

    def _write(self, mail: Mail) -> Delivery:
        composed = _compose(mail, self._sender)
        if isinstance(composed, Refused):
            return composed
        path = self._folder / f"{mail.payment_id}.{mail.template}.eml"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            partial.write_bytes(composed.text)
            os.replace(partial, path)
        except OSError as error:
            return Undelivered(f"{type(error).__name__}: {error.strerror}")
        except Exception as error:
            return _unexpected(mail, error)
        return Delivered()


class SmtpMailer:
    """Sends through an SMTP server.

    Args:
        host: of the server.
        port: of the server.
        sender: of each mail.
        timeout_s: for a mail as a whole, from connecting to acceptance, seconds.
        backoff_s: how long the circuit stays open the first, second, … time in a row, seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        sender: str,
        timeout_s: float,
        backoff_s: Sequence[float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._port, self._sender, self._timeout_s = host, port, sender, timeout_s
        self.attributes: Mapping[str, str | int] = {
            names.NETWORK_PROTOCOL_NAME: "smtp",
            names.SERVER_ADDRESS: host,
            names.SERVER_PORT: port,
        }
        self._own_name: str | None = None
        self._clock = clock
        self._accepted_at = -math.inf
        # For whom all was refused since then.
        self._refused: set[str] = set()
        self._breaker = Breaker(backoff_s, clock)
        metrics.CIRCUIT_OPEN.labels("smtp").set_function(lambda: not self._breaker.is_closed)
        self._calls = Calls(SMTP_CONNECTIONS_MAX, BUDGET_S, self._breaker)

    def capacity(self, at_most: int) -> int:
        """All, one probe, or none, depending on the circuit breaker."""
        return self._calls.capacity(at_most)

    async def send(self, mails: Sequence[Mail], *, probe: bool = True) -> Sequence[Delivery]:
        """Send the mails, several at a time."""
        answers = await self._calls.each(self._send, mails, probe=probe)
        return [answer or _NOT_CALLED for answer in answers]

    async def _send(self, mail: Mail) -> Delivery:
        composed = _compose(mail, self._sender)
        if isinstance(composed, Refused):
            self._breaker.released()
            return composed
        try:
            await self._hand_over(composed.message, mail.recipient)
        except aiosmtplib.SMTPRecipientsRefused as error:
            (refused,) = error.recipients  # a mail has one
            return self._answered(mail, refused.code, refused.message, RECIPIENT_REFUSED)
        except aiosmtplib.SMTPDataError as error:
            return self._answered(mail, error.code, error.message, CONTENT_REFUSED)
        except (ValueError, aiosmtplib.SMTPNotSupported) as error:  # the mail's fault, not the server's
            self._breaker.succeeded()
            return Refused(_text(f"{type(error).__name__}: {error}"))
        # An error at connecting, greeting, login or sender (MAIL) concerns every mail.
        except (aiosmtplib.SMTPException, OSError) as error:
            self._breaker.failed()
            if isinstance(error, aiosmtplib.SMTPResponseException):
                return self._undelivered(f"{error.code} {error.message}")
            return self._undelivered(str(error))
        except Exception as error:
            self._breaker.failed()
            return _unexpected(mail, error)
        self._accepted_at = self._clock()
        self._refused.clear()
        self._breaker.succeeded()
        return Delivered()

    def _answered(self, mail: Mail, code: int, message: str, refused: Collection[int]) -> Delivery:
        """What an answer to RCPT or DATA means; Postfix also answers RCPT with what it refuses of all mail."""
        answer = f"{code} {message}"
        if _is_about_the_mail(code, message, refused):
            self._breaker.succeeded()
            return Refused(_text(answer))
        if code >= 500:
            self._count_refusal(mail.recipient)
        elif code == SERVICE_CLOSES:
            self._breaker.failed()
        else:  # greylisting, a full mailbox: the next mail may be accepted
            self._breaker.succeeded()
        return self._undelivered(answer, is_refusal=code >= 500)

    def _count_refusal(self, recipient: str) -> None:
        """Count a refusal as a failure of the server only once enough recipients have met one, for long enough."""
        if len(self._refused) < REFUSED_RECIPIENTS:
            self._refused.add(recipient)
        accepts = self._clock() < self._accepted_at + ACCEPTING_S
        if len(self._refused) == REFUSED_RECIPIENTS and not accepts:
            self._breaker.failed()
        else:
            self._breaker.released()

    def _undelivered(self, reason: str, *, is_refusal: bool = False) -> Undelivered:
        return Undelivered(_text(f"{self._host}:{self._port}: {reason}"), is_refusal)

    async def _hand_over(self, message: EmailMessage, recipient: str) -> None:
        """Send a message on a connection of its own; the server has accepted it when this returns.

        Raises:
            aiosmtplib.SMTPException: the server cannot be reached, or refuses something.
            TimeoutError: the server has not accepted it in time, but it may yet.
        """
        if self._own_name is None:
            self._own_name = await asyncio.to_thread(socket.getfqdn)  # which may take long, once
        client = aiosmtplib.SMTP(hostname=self._host, port=self._port, local_hostname=self._own_name, timeout=None)
        with closing(client):
            try:
                async with asyncio.timeout(self._timeout_s):
                    await client.connect()
                    await client.send_message(message, recipients=[recipient])
            except TimeoutError:
                raise TimeoutError(f"the mail was not accepted within {self._timeout_s:g} s") from None
            finally:
                with suppress(aiosmtplib.SMTPException):
                    await client.quit(timeout=QUIT_S)


def mailer_for(settings: ServiceSettings) -> Mailer:
    """The mailer that the settings ask for: SMTP where a host is named, files otherwise."""
    kind = settings.mailer or ("smtp" if settings.smtp_host else "file")
    if kind == "off":
        return NoMailer()
    if kind == "smtp":
        host = settings.smtp_host or "127.0.0.1"
        return SmtpMailer(
            host, settings.smtp_port, settings.mail_from, settings.smtp_timeout_s, settings.retry_backoff_s
        )
    return FileMailer(settings.data / "mail", settings.mail_from)


def _is_about_the_mail(code: int, message: str, refused: Collection[int]) -> bool:
    """Whether an answer refuses this recipient or this content for good, and not the service to all mail."""
    if code < 500:
        return False
    status = _ENHANCED_STATUS.match(message)
    if status is None:
        return code in refused
    if _NO_RECIPIENT.match(message):
        return True
    return status[1] not in OF_ALL_MAIL and _ABOUT_THE_MAIL.fullmatch(status[1]) is not None


def _unexpected(mail: Mail, error: Exception) -> Undelivered:
    """Log a bug of ours with this mail; the others of its batch have their own outcomes."""
    log.exception("a mail failed", payment_id=str(mail.payment_id), template=mail.template)
    return Undelivered(_text(f"{type(error).__name__}: {error}"))


def _text(reason: str) -> str:
    """A server's answer, sanitized and cut: it may have any bytes and any length."""
    return clean(reason, REASON_MAX)


class _Composed(msgspec.Struct, frozen=True):
    message: EmailMessage
    text: bytes


def _compose(mail: Mail, sender: str) -> _Composed | Refused:
    if next(_made) % COLLECT_EVERY == 0:
        gc.collect(0)
    message = EmailMessage()
    try:
        message["From"] = sender
        message["To"] = mail.recipient
        message["Subject"] = mail.subject
        message["Message-ID"] = mail.message_id
        message.set_content(mail.text)
        text = bytes(message)
        addresses = [address.addr_spec for address in message["To"].addresses if address.domain]
    except Exception as error:  # the standard library's parsers raise anything, and would at every attempt
        return Refused(_text(f"{type(error).__name__}: {error}"))
    if addresses != [mail.recipient] or not mail.recipient.isprintable():
        return Refused(f"{mail.recipient!r} is not a mail address")
    return _Composed(message, text)
