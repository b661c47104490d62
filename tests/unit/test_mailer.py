"""A mail leaves as it should, and one that never can is reported as such instead of tried for ever."""

import asyncio
import time
from email import message_from_bytes, policy
from itertools import count
from types import SimpleNamespace
from uuid import uuid4

import aiosmtplib
import pytest

from processors.notification import mailer
from processors.notification.mailer import (
    ACCEPTING_S,
    REFUSED_RECIPIENTS,
    Delivered,
    FileMailer,
    Mail,
    NotTried,
    Refused,
    SmtpMailer,
    Undelivered,
)
from processors.runtime.breaker import FAILURES_MAX
from processors.runtime.calls import BUDGET_S
from processors.runtime.settings import recipient

SENDER = "Settle <settle@bank.example>"
HOSTILE = [
    "a:acc-1@localhost",
    "a@b, c@d",
    "acc-1\nBcc: other@bank.example",
    "acc-1",
    "",
    "@",
    "a@b@c",
    '"@localhost',
    "a@[",
    "a\0@b",
    "\udce4@localhost",
]


@pytest.fixture(autouse=True)
def time_enough(monkeypatch):
    """Where a test stands still, that takes nothing of a batch's time."""
    monkeypatch.setattr(mailer, "BUDGET_S", 60.0)


SILENCE = b"nothing at all"

ENOUGH = REFUSED_RECIPIENTS + FAILURES_MAX
"""Failures that open the circuit, of whatever kind."""


def mail_to(address):
    return Mail(uuid4(), "withdrawal_paid", address, "Your withdrawal", "1.00 USD\n")


class SmtpServer:
    """Takes mail as a server at the outer edge would; answers that are no yes are given by what they answer.

    Each answer takes ``answer_s`` seconds. ``refuses`` are recipients, each with the answer to it.
    """

    def __init__(self, answer_s=0.0, refuses=None, **answers):
        self.answer_s, self.refuses, self.answers = answer_s, refuses or {}, answers
        self.said, self.recipients, self.mails = [], [], []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    def mailer(self, timeout_s=60.0):
        """Whose circuit breaker rests for as long as the test lasts."""
        mailer = SmtpMailer("127.0.0.1", self.port, SENDER, timeout_s, (1.0,))
        mailer._breaker._clock = lambda: 0.0
        return mailer

    async def _answer(self, writer, word, yes=b"250 ok"):
        await asyncio.sleep(self.answer_s)
        writer.write(self.answers.get(word, yes) + b"\r\n")

    async def _talk(self, reader, writer):
        await self._answer(writer, "connect", b"220 test")
        while line := await reader.readline():
            word = line[:4].strip().upper().decode()
            if word == "RCPT":
                self.recipients.append(line[len("RCPT TO:") :].split(b" ")[0].strip())
                if (no := self.refuses.get(self.recipients[-1].strip(b"<>").decode())) is not None:
                    writer.write(no + b"\r\n")
                    continue
            elif word == "DATA":
                await self._answer(writer, "DATA", b"354 go on")
                if "DATA" in self.answers:
                    continue
                self.mails.append(await reader.readuntil(b"\r\n.\r\n"))
                word = "end"
            self.said.append(word)
            if self.answers.get(word) == SILENCE:
                continue
            await self._answer(writer, word)
            if word == "QUIT":
                break
        writer.close()


@pytest.mark.parametrize("account", ["acc-1", "a:acc-1", ".acc..1.", "a:b:c", "-"])
def test_an_account_of_any_name_has_one_mail_address(account, tmp_path):
    address = recipient("{account_id}@bank.example", account)
    mail = mail_to(address)

    async def send():
        async with SmtpServer() as server:
            return await server.mailer().send([mail]), server

    (outcome,), server = asyncio.run(send())
    assert outcome == Delivered()
    assert server.recipients == [f"<{address}>".encode()]
    assert asyncio.run(FileMailer(tmp_path, SENDER).send([mail])) == [Delivered()]
    for written in (server.mails[0], next(tmp_path.glob("*.eml")).read_bytes()):
        message = message_from_bytes(written, policy=policy.default)
        (addressee,) = message["To"].addresses
        assert (addressee.username, addressee.domain) == (account, "bank.example")
        assert message["From"] == SENDER
        assert message["Message-ID"] == mail.message_id


@pytest.mark.parametrize("address", HOSTILE)
def test_an_address_that_is_none_is_refused_and_nothing_leaves(address, tmp_path):
    async def send():
        async with SmtpServer() as server:
            return await server.mailer().send([mail_to(address)]), server.mails

    outcomes, mails = asyncio.run(send())
    written = asyncio.run(FileMailer(tmp_path, SENDER).send([mail_to(address)]))
    assert [type(outcome) for outcome in [*outcomes, *written]] == [Refused, Refused]
    assert (mails, list(tmp_path.iterdir())) == ([], [])
    for outcome in written:
        outcome.reason.encode()


def test_an_address_that_the_server_cannot_take_is_refused_and_keeps_no_other_mail_back():
    async def send():
        async with SmtpServer() as server:  # it does not offer SMTPUTF8
            mailer = server.mailer()
            return await mailer.send([mail_to("j\xfcrgen@b")] * FAILURES_MAX), mailer.capacity(10), server.mails

    outcomes, capacity, mails = asyncio.run(send())
    assert (
        outcomes
        == [
            Refused(
                "SMTPNotSupported: An address containing non-ASCII characters was provided, but "
                "SMTPUTF8 is not supported by this server"
            )
        ]
        * FAILURES_MAX
    )
    assert (capacity, mails) == (10, [])


def test_one_bad_address_keeps_no_other_mail_back(tmp_path):
    mails = [mail_to("a@b"), mail_to("a:b@c"), mail_to("c@d")]
    outcomes = asyncio.run(FileMailer(tmp_path, SENDER).send(mails))
    assert [type(outcome) for outcome in outcomes] == [Delivered, Refused, Delivered]


def test_a_batch_over_its_time_begins_no_more_mails(tmp_path, monkeypatch):
    monkeypatch.setattr(mailer, "BUDGET_S", BUDGET_S)
    clock = count(0.0, 0.3 * BUDGET_S)  # goes on with each look
    monkeypatch.setattr(mailer, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    outcomes = asyncio.run(FileMailer(tmp_path, SENDER).send([mail_to("a@b")] * 100))
    assert outcomes == [Delivered()] * 3 + [NotTried("the batch's time was up")] * 97


OF_THE_MAIL, OF_ALL_MAIL, FOR_NOW = (Refused, 10, 10), (Undelivered, 0, 0), (Undelivered, 10, 10)
PERHAPS_OF_THE_MAIL = (Undelivered, 10, 0)
"""What becomes of a mail, and how many others are sent after such answers about one recipient, and about many."""


@pytest.mark.parametrize(
    ("word", "answer", "about"),
    [
        ("connect", b"554 no service", OF_ALL_MAIL),
        ("connect", b"421 later", OF_ALL_MAIL),
        ("EHLO", b"550 who are you", OF_ALL_MAIL),
        ("MAIL", b"550 not from you", OF_ALL_MAIL),
        ("MAIL", b"550 5.1.1 not from you", OF_ALL_MAIL),
        ("MAIL", b"451 later", OF_ALL_MAIL),
        ("RCPT", b"550 no such user", OF_THE_MAIL),
        ("RCPT", b"550 5.1.1 <a@b>: Recipient address rejected: User unknown", OF_THE_MAIL),
        ("RCPT", b"556 5.1.10 <a@b>: Recipient address rejected: Domain b does not accept mail", OF_THE_MAIL),
        ("RCPT", b"552 5.2.2 mailbox full", OF_THE_MAIL),
        ("RCPT", b"550 5.4.1 Recipient address rejected: Access denied. [x 2026-12-01]", OF_THE_MAIL),
        ("RCPT", b"550 5.4.1 no", PERHAPS_OF_THE_MAIL),
        ("RCPT", b"554 5.7.1 <a@b>: Recipient address rejected: Access denied", PERHAPS_OF_THE_MAIL),
        ("RCPT", b"554 5.7.1 <a@b>: Relay access denied", PERHAPS_OF_THE_MAIL),
        ("RCPT", b"550 5.7.1 <settle@bank.example>: Sender address rejected: no", PERHAPS_OF_THE_MAIL),
        ("RCPT", b"550 5.1.0 <settle@bank.example>: Sender address rejected: User unknown", PERHAPS_OF_THE_MAIL),
        (
            "RCPT",
            b"550 5.1.8 <settle@bank.example>: Sender address rejected: Domain not found",
            PERHAPS_OF_THE_MAIL,
        ),
        ("RCPT", b"504 5.5.2 <settle>: Helo command rejected: need fully-qualified hostname", PERHAPS_OF_THE_MAIL),
        ("RCPT", b"554 no", PERHAPS_OF_THE_MAIL),
        ("RCPT", b"421 4.7.0 too many connections", OF_ALL_MAIL),
        ("RCPT", b"450 later", FOR_NOW),
        ("RCPT", b"450 4.2.0 <a@b>: Recipient address rejected: Greylisted", FOR_NOW),
        ("RCPT", b"450 5.1.1 a status that does not fit", FOR_NOW),
        ("RCPT", b"550 \xff\0\x1b[31m\xe2\x80\xae", OF_THE_MAIL),
        ("RCPT", b"550 " + b"x" * 400 + b"\r\n550 " + b"y" * 400, OF_THE_MAIL),
        ("DATA", b"554 no", OF_THE_MAIL),
        ("DATA", b"503 no", PERHAPS_OF_THE_MAIL),
        ("DATA", b"554 5.5.1 Error: no valid recipients", PERHAPS_OF_THE_MAIL),
        ("DATA", b"451 4.7.1 Greylisted", FOR_NOW),
        ("end", b"552 no", OF_THE_MAIL),
        ("end", b"554 5.6.0 cannot be converted", OF_THE_MAIL),
        ("end", b"550 5.7.1 taken for spam", PERHAPS_OF_THE_MAIL),
        ("end", b"552 5.3.4 message too big for system", PERHAPS_OF_THE_MAIL),
        ("end", b"421 4.3.0 later", OF_ALL_MAIL),
        ("end", b"452 later", FOR_NOW),
    ],
)
def test_only_what_is_answered_to_recipient_or_content_and_about_it_refuses_a_mail(word, answer, about):
    also = {"HELO": answer} if word == "EHLO" else {}

    async def send():
        async with SmtpServer(**{word: answer}, **also) as server:
            to_one, to_many = server.mailer(), server.mailer()
            outcomes = [(await to_one.send([mail_to("a@b")]))[0] for _ in range(ENOUGH)]
            for number in range(ENOUGH):
                await to_many.send([mail_to(f"a{number}@b")])
            return outcomes, to_one.capacity(10), to_many.capacity(10)

    outcomes, *capacities = asyncio.run(send())
    tried = outcomes if about[1] else outcomes[:FAILURES_MAX]
    assert ({type(outcome) for outcome in tried}, *capacities) == ({about[0]}, *about[1:])
    refusals = {isinstance(outcome, Undelivered) and outcome.is_refusal for outcome in tried}
    assert refusals == {about is PERHAPS_OF_THE_MAIL}
    assert answer[:3].decode() in outcomes[0].reason
    assert outcomes[0].reason.isprintable()
    assert len(outcomes[0].reason) <= 500


NOT_HIM = b"554 5.7.1 Recipient address rejected: Access denied"


def test_good_mails_leave_while_others_are_refused_for_what_may_be_of_all_mail():
    rounds = [[f"bad{first + number}@b" for number in range(REFUSED_RECIPIENTS - 1)] for first in range(0, 60, 10)]

    async def send():
        async with SmtpServer(refuses={address: NOT_HIM for bad in rounds for address in bad}) as server:
            mailer, good = server.mailer(), []
            for bad in rounds:
                for address in (*bad, *bad):
                    (outcome,) = await mailer.send([mail_to(address)])
                    assert (type(outcome), outcome.is_refusal) == (Undelivered, True)
                good += await mailer.send([mail_to("good@b")])
            return good, mailer.capacity(10)

    assert asyncio.run(send()) == ([Delivered()] * len(rounds), 10)


def test_a_server_that_refuses_everybody_is_an_outage_once_it_has_accepted_no_mail_for_a_minute():
    bad = [f"bad{number}@b" for number in range(2 * ENOUGH)]

    async def send():
        async with SmtpServer(refuses=dict.fromkeys(bad, NOT_HIM)) as server:
            now = 1_000.0
            mailer = SmtpMailer("127.0.0.1", server.port, SENDER, 60.0, (1.0,), lambda: now)
            await mailer.send([mail_to("good@b")])
            now += ACCEPTING_S - 1
            before = [type(outcome) for outcome in await mailer.send([mail_to(address) for address in bad])]
            capacity = mailer.capacity(10)
            now += 1
            await mailer.send([mail_to(address) for address in bad])
            return before, capacity, mailer.capacity(10)

    assert asyncio.run(send()) == ([Undelivered] * len(bad), 10, 0)


def test_a_probe_that_is_refused_for_what_may_be_of_one_mail_makes_room_for_the_next():
    async def send():
        async with SmtpServer(refuses={"bad@b": NOT_HIM}) as server:
            mailer, now = server.mailer(), 0.0
            mailer._breaker._clock = lambda: now
            for _ in range(FAILURES_MAX):
                mailer._breaker.failed()
            assert mailer.capacity(10) == 0
            now = 60.0
            (refused,) = await mailer.send([mail_to("bad@b")])
            assert (type(refused), mailer.capacity(10)) == (Undelivered, 1)
            return await mailer.send([mail_to("good@b")]), mailer.capacity(10)

    assert asyncio.run(send()) == ([Delivered()], 10)


def test_a_mail_that_fails_unexpectedly_repeats_no_other_of_its_batch(tmp_path, monkeypatch):
    mails = [mail_to(address) for address in ("a@b", "broken@b", "c@d")]
    send, replace = aiosmtplib.SMTP.send_message, mailer.os.replace

    async def send_or_break(client, message, recipients):
        if "broken" in recipients[0]:
            raise ZeroDivisionError("no\0thing")
        return await send(client, message, recipients=recipients)

    def replace_or_break(source, target):
        if str(mails[1].payment_id) in str(source):
            raise ZeroDivisionError("no\0thing")
        return replace(source, target)

    monkeypatch.setattr(aiosmtplib.SMTP, "send_message", send_or_break)
    monkeypatch.setattr(mailer.os, "replace", replace_or_break)

    async def both():
        async with SmtpServer() as server:
            return await server.mailer().send(mails), await FileMailer(tmp_path, SENDER).send(mails)

    failed = Undelivered("ZeroDivisionError: no?thing")
    for outcomes in asyncio.run(both()):
        assert outcomes == [Delivered(), failed, Delivered()]


def test_a_mail_that_is_none_takes_no_probe_from_the_others():
    async def send():
        smtp = SmtpMailer("127.0.0.1", 9, SENDER, 5.0, (0.1,))
        await smtp.send([mail_to("a@b")] * FAILURES_MAX)
        smtp._breaker._clock = lambda: time.monotonic() + 60  # its rest is over
        (outcome,) = await smtp.send([mail_to("")])
        return outcome, smtp.capacity(10)

    outcome, capacity = asyncio.run(asyncio.wait_for(send(), 30))
    assert (type(outcome), capacity) == (Refused, 1)


def test_a_server_that_is_away_is_worth_another_attempt():
    (outcome,) = asyncio.run(SmtpMailer("127.0.0.1", 9, SENDER, 5.0, (1.0,)).send([mail_to("a@b")]))
    assert isinstance(outcome, Undelivered)
    assert "127.0.0.1:9" in outcome.reason


def test_the_time_limit_is_for_a_mail_as_a_whole_however_prompt_each_answer_is():
    async def send():
        async with SmtpServer(answer_s=0.2) as server:
            mailer = server.mailer(timeout_s=0.7)
            outcomes = await mailer.send([mail_to("a@b")] * FAILURES_MAX)
            return outcomes, mailer.capacity(10), server.port

    outcomes, capacity, port = asyncio.run(send())
    assert outcomes == [Undelivered(f"127.0.0.1:{port}: the mail was not accepted within 0.7 s")] * FAILURES_MAX
    assert capacity == 0


def test_a_mail_that_was_accepted_has_left_whether_or_not_the_server_says_goodbye(monkeypatch):
    monkeypatch.setattr(mailer, "QUIT_S", 0.1)

    async def send():
        async with SmtpServer(QUIT=SILENCE) as server:
            return await server.mailer(timeout_s=5.0).send([mail_to("a@b")]), server.said

    outcomes, said = asyncio.run(send())
    assert (outcomes, said[-1]) == ([Delivered()], "QUIT")
