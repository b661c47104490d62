"""Only a clear answer of the provider is taken for one; a real HTTP server answers whatever a test wants."""

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import uuid4

import msgspec
import pytest
from aiohttp import web

from processors.payment.gateway import Charge, Declined, NotTried, Paid, Unavailable, Voided
from processors.payment.provider import http
from processors.payment.provider.http import (
    ANSWER_BYTES_MAX,
    LIMITED_ACCOUNTS,
    LIMITED_S,
    HttpProvider,
    _retry_after_s,
)
from processors.runtime.breaker import FAILURES_MAX
from processors.runtime.settings import ServiceSettings

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def charges(count=1, account="acc-1"):
    return [Charge(uuid4(), account.format(number), 10_000, "USD") for number in range(count)]


def ask(answer: Answer, wanted, *, url=None, **settings):
    """Run ``wanted(provider)`` against a server that answers with ``answer``."""

    async def main():
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        about = {
            "provider_url": url or f"http://{host}:{port}",
            "provider_timeout_s": 60,
            "retry_backoff_s": (0.1,),
            **settings,
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http, "BUDGET_S", 60.0)  # where a test stands still, that takes none of it
            provider = HttpProvider(ServiceSettings(**about))
        try:
            return await wanted(provider)
        finally:
            await provider.close()
            await runner.cleanup()

    return asyncio.run(main())


def outcome_of(answer: Answer, **settings):
    (charge,) = charges()

    async def wanted(provider):
        return (await provider.charge([charge], probe=True))[charge.payment_id]

    return ask(answer, wanted, **settings)


def says(status=200, body=b"", **headers):
    async def answer(_request):
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return web.Response(status=status, body=content, headers=headers)

    return answer


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"status": "paid", "reference": "r-1"}, Paid("r-1")),
        ({"status": "declined", "reason": "no"}, Declined("no")),
        ({"status": "voided"}, Voided()),
    ],
)
def test_a_clear_answer_is_taken(body, outcome):
    assert outcome_of(says(body=body)) == outcome


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>", "provider_answer_unreadable"),
        (200, {"status": "maybe"}, "provider_answer_unreadable"),
        (200, {"status": "paid"}, "provider_answer_unreadable"),
        (200, {"status": "declined"}, "provider_answer_unreadable"),
        (200, b'{"status": "paid", "reference": "\xff"}', "provider_answer_unreadable"),
        (200, b'{"status": "paid", "reference": ' + b"[" * 20_000, "provider_answer_unreadable"),
        (200, b'{"status": "paid", "reference": "r"}' + b" " * ANSWER_BYTES_MAX, "provider_answer_too_long"),
        (503, b" " * 10 * ANSWER_BYTES_MAX, "provider_error_503"),
        (201, {"status": "paid", "reference": "r"}, "provider_error_201"),
        (302, b"", "provider_error_302"),
        (400, {"status": "declined", "reason": "x"}, "provider_error_400"),
        (401, b"", "provider_error_401"),
        (404, b"", "provider_error_404"),
        (500, b"", "provider_error_500"),
        (503, {"status": "paid", "reference": "r"}, "provider_error_503"),
    ],
)
def test_whatever_else_it_says_leaves_the_outcome_unknown(status, body, reason):
    assert outcome_of(says(status, body)) == Unavailable(reason)


def test_a_compressed_answer_is_not_unpacked():
    body = gzip.compress(b'{"status": "paid", "reference": "' + b"r" * 10_000_000 + b'"}')
    assert len(body) < ANSWER_BYTES_MAX
    answer = says(200, body, **{"Content-Encoding": "gzip"})
    assert outcome_of(answer) == Unavailable("provider_answer_unreadable")


def test_an_answer_without_end_is_cut_off():
    sent = 0

    async def endless(request):
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * ANSWER_BYTES_MAX)
            sent += ANSWER_BYTES_MAX

    assert outcome_of(endless, provider_timeout_s=30) == Unavailable("provider_answer_too_long")
    assert sent < 200 * ANSWER_BYTES_MAX


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("no \0\x1b[31m\u202e\ud83d\ude00\n\x85end", "no ??[31m?\U0001f600  end"),
        ("x" * 501, "x" * 499 + "…"),
        ("y" * 500, "y" * 500),
        ("", ""),
    ],
)
def test_the_provider_s_words_are_cleaned_and_cut(word, kept):
    word = word.encode("utf-16", "surrogatepass").decode("utf-16")
    assert outcome_of(says(body={"status": "declined", "reason": word})) == Declined(kept)
    paid = outcome_of(says(body={"status": "paid", "reference": word}))
    assert paid == Paid(kept if len(kept) < 200 else kept[:199] + "…")


def test_a_rate_limit_is_not_ended_by_the_answer_to_an_earlier_call():
    limited = asyncio.Event()

    async def answer(request):
        if request.path == "/voids":
            limited.set()
            return web.Response(status=429, headers={"Retry-After": "30"})
        await limited.wait()
        return web.json_response({"status": "paid", "reference": "r"})

    async def wanted(provider):
        provider._breaker._clock = lambda: 0.0
        early = asyncio.create_task(provider.charge(charges(), probe=False))
        await provider.void(charges())
        return set((await early).values()), provider.capacity(10)

    assert ask(answer, wanted) == ({Paid("r")}, 0)


def test_silence_ends_after_the_time_limit():
    async def silent(_request):
        await asyncio.sleep(60)
        return web.Response()

    started = time.monotonic()
    assert outcome_of(silent, provider_timeout_s=0.1) == Unavailable("provider_timeout")
    assert time.monotonic() - started < 30


def test_a_connection_that_breaks_leaves_the_outcome_unknown():
    async def hang_up(request):
        request.transport.abort()
        return web.Response()

    assert outcome_of(hang_up).reason.startswith("provider_unreachable")


def test_nobody_there_leaves_the_outcome_unknown():
    assert outcome_of(says(), url="http://127.0.0.1:9").reason == "provider_unreachable: ConnectError"


def test_a_fault_of_ours_leaves_the_outcome_unknown(monkeypatch):
    async def broken(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(http, "_ask", broken)
    assert outcome_of(says()) == Unavailable("provider_call_failed: ZeroDivisionError")


def test_the_payment_id_is_the_idempotency_key_of_every_call():
    seen = []

    async def note(request):
        seen.append((request.path, request.headers["Idempotency-Key"], await request.json()))
        return web.json_response({"status": "voided"})

    (charge,) = charges()

    async def wanted(provider):
        await provider.charge([charge], probe=True)
        await provider.charge([charge], probe=True)
        return await provider.void([charge])

    assert ask(note, wanted) == {charge.payment_id: Voided()}
    assert [path for path, _, _ in seen] == ["/charges", "/charges", "/voids"]
    assert {key for _, key, _ in seen} == {str(charge.payment_id)}
    body = {"account_id": "acc-1", "amount_minor": 10_000, "currency": "USD", "payment_id": str(charge.payment_id)}
    assert all(sent == body for _, _, sent in seen)


def capacity_at(provider, seconds):
    provider._breaker._clock = lambda: seconds
    return provider.capacity(500)


def test_a_rate_limit_that_all_accounts_meet_is_kept_by_all_for_as_long_as_the_provider_says():
    asked, all_of_them = [], asyncio.Event()

    async def limit(request):
        asked.append(request.path)
        if len(asked) == LIMITED_ACCOUNTS:
            all_of_them.set()
        await all_of_them.wait()
        return web.Response(status=429, headers={"Retry-After": "30"})

    many = charges(100, account="acc-{}")

    async def wanted(provider):
        provider._breaker._clock = lambda: 0.0
        outcomes = await provider.charge(many, probe=True)
        return outcomes, [capacity_at(provider, seconds) for seconds in (29.0, 30.0)]

    outcomes, capacity = ask(limit, wanted, provider_connections=LIMITED_ACCOUNTS)
    assert len(asked) == LIMITED_ACCOUNTS
    assert outcomes[many[0].payment_id] == Unavailable("provider_rate_limit", 30.0, counts=False)
    assert outcomes[many[-1].payment_id] == NotTried()
    assert capacity == [0, 1]


def test_a_rate_limit_of_few_accounts_is_kept_by_their_payments_and_stops_no_other_for_long():
    async def answer(request):
        if (await request.json())["account_id"].startswith("limited"):
            return web.Response(status=429, headers={"Retry-After": "300"})
        return web.json_response({"status": "paid", "reference": "r"})

    async def wanted(provider):
        now, seen = 0.0, set()
        for few in ("limited-{}", "limited-too-{}"):
            for one in charges(LIMITED_ACCOUNTS - 1, few) + charges(20, few.format(0)):
                assert capacity_at(provider, now) > 0
                seen |= set((await provider.charge([one], probe=True)).values())
                assert capacity_at(provider, now) == 0
                now += LIMITED_S
            assert capacity_at(provider, now) == 1
            seen |= set((await provider.charge(charges(), probe=True)).values())
            assert capacity_at(provider, now) == 500
        return seen

    assert ask(answer, wanted) == {Paid("r"), Unavailable("provider_rate_limit", 300.0, counts=False)}


def test_a_provider_that_is_down_is_probed_and_then_used_again():
    state = {"down": True, "asked": 0}

    async def answer(_request):
        state["asked"] += 1
        if state["down"]:
            return web.Response(status=503)
        return web.json_response({"status": "paid", "reference": "r"})

    async def wanted(provider):
        provider._breaker._clock = lambda: 0.0
        first = await provider.charge(charges(50), probe=False)
        asked_first = state["asked"]
        assert provider.capacity(500) == 0
        provider._breaker._clock = lambda: 60.0  # its rest is over
        assert provider.capacity(500) == 1
        assert set((await provider.charge(charges(3), probe=False)).values()) == {NotTried()}
        state["down"] = False
        await provider.charge(charges(1), probe=True)
        assert provider.capacity(500) == 500
        return first, asked_first, await provider.charge(charges(50), probe=False)

    first, asked_first, last = ask(answer, wanted, provider_connections=4, retry_backoff_s=(5.0,))
    assert FAILURES_MAX <= asked_first < FAILURES_MAX + 4
    assert list(first.values()).count(NotTried()) == 50 - asked_first
    assert set(last.values()) == {Paid("r")}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("7", 7),
        ("999999", 300),
        ("-1", 0),
        ("soon", 0),
        ("²", 0),
        ("9" * 5_000, 300),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", 0),
        (format_datetime(datetime(2026, 1, 1, 0, 0, 9, tzinfo=UTC), usegmt=True), 9),
        (format_datetime(datetime(2025, 1, 1, tzinfo=UTC), usegmt=True), 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert timedelta(seconds=_retry_after_s(header, now)) == timedelta(seconds=seconds)
