"""Does a mail leave as it should, and is one that never can said to be so instead of tried for ever?"""

import asyncio
from email import message_from_bytes, policy
from itertools import count
from types import SimpleNamespace
from uuid import uuid4

import pytest

from processors.notification import mailer
from processors.notification.mailer import (
    Delivered,
    FileMailer,
    Mail,
    NotTried,
    Refused,
    SmtpMailer,
    Undelivered,
)
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


def mail_to(address):
    return Mail(uuid4(), "withdrawal_paid", address, "Your withdrawal", "1.00 USD\n")


class SmtpServer:
    """Takes mail as a server at the outer edge would; the answer to a recipient is given."""

    def __init__(self, answer=b"250 ok"):
        self.answer, self.recipients, self.mails = answer, [], []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    def mailer(self):
        return SmtpMailer("127.0.0.1", self.server.sockets[0].getsockname()[1], SENDER, 5.0, (1.0,))

    async def _talk(self, reader, writer):
        writer.write(b"220 test\r\n")
        while line := await reader.readline():
            word = line[:4].upper()
            answer = b"250 ok"
            if word == b"RCPT":
                self.recipients.append(line[len("RCPT TO:") :].split(b" ")[0].strip())
                answer = self.answer
            elif word == b"DATA":
                writer.write(b"354 go on\r\n")
                self.mails.append(await reader.readuntil(b"\r\n.\r\n"))
            writer.write(answer + b"\r\n")
            if word == b"QUIT":
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


def test_one_bad_address_keeps_no_other_mail_back(tmp_path):
    mails = [mail_to("a@b"), mail_to("a:b@c"), mail_to("c@d")]
    outcomes = asyncio.run(FileMailer(tmp_path, SENDER).send(mails))
    assert [type(outcome) for outcome in outcomes] == [Delivered, Refused, Delivered]


def test_a_batch_over_its_time_begins_no_more_mails(tmp_path, monkeypatch):
    clock = count(0.0, 0.3 * BUDGET_S)  # goes on with each look
    monkeypatch.setattr(mailer, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    outcomes = asyncio.run(FileMailer(tmp_path, SENDER).send([mail_to("a@b")] * 100))
    assert outcomes == [Delivered()] * 3 + [NotTried("the batch's time was up")] * 97


@pytest.mark.parametrize(
    ("answer", "kind"), [(b"550 no such user", Refused), (b"450 later", Undelivered), (b"550 \xff\0", Refused)]
)
def test_what_the_server_answers_decides_and_is_told_as_text(answer, kind):
    async def send():
        async with SmtpServer(answer) as server:
            return await server.mailer().send([mail_to("a@b")])

    (outcome,) = asyncio.run(send())
    assert isinstance(outcome, kind)
    assert outcome.reason.startswith(answer[:3].decode())
    assert "\0" not in outcome.reason
    outcome.reason.encode()


def test_a_server_that_is_away_is_worth_another_attempt():
    (outcome,) = asyncio.run(SmtpMailer("127.0.0.1", 9, SENDER, 5.0, (1.0,)).send([mail_to("a@b")]))
    assert isinstance(outcome, Undelivered)
    assert "127.0.0.1:9" in outcome.reason
