"""The simulated provider as an HTTP service: ``settle run provider``.

=======================  ==============================================================================
``POST /charges``        pay once per payment ID; 200 with ``status`` ``paid``, ``declined`` or ``voided``
``POST /voids``          never pay this payment ID, unless it is paid already; 200 with the outcome
``GET /charges/{id}``    the outcome of a payment ID; 404 for an unknown one
``GET /ledger``          every decision by ascending payment ID, a page after ``?after=``
``PUT /faults``          set the injected faults, see :class:`Faults`
``GET /metrics``         how many charges and voids there were, by outcome, for Prometheus
=======================  ==============================================================================

Charges and voids take a JSON object with ``payment_id``, ``account_id``, ``amount_minor`` and ``currency``. An
outage is answered with 503, or not at all.
"""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

import msgspec
import psycopg
import structlog
import uvloop
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest

from contracts.foreign import UNREADABLE
from contracts.production import is_production
from contracts.variables import EnvironmentRefusedError
from processors.payment.gateway import Charge, Outcome, Unavailable
from processors.payment.provider.simulated import SimulatedProvider
from processors.runtime.logs import configure_logs
from processors.runtime.settings import ServiceSettings

LEDGER_PAGE = 1_000
SILENCE_S_MAX = 60.0
BODY_BYTES_MAX = 16 * 1024

DECIDED = Counter("settle_provider_decided_total", "Charges and voids decided", ["operation", "outcome"])

log = structlog.get_logger()


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """Injected faults; shares are of all charges and voids, from 0 to 1.

    Attributes:
        error_share: answered with ``error_status``, and not executed.
        error_status: 503, or 429 with ``Retry-After``.
        retry_after_s: the header ``Retry-After`` of such an answer, whole seconds; none if 0.
        silent_share: executed, and then not answered.
        delay_s: delay before it is executed, seconds.
        voids: whether the faults apply to voids as well, or only to charges.
    """

    error_share: float = 0.0
    error_status: int = 503
    retry_after_s: int = 0
    silent_share: float = 0.0
    delay_s: float = 0.0
    voids: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.error_share <= 1 and 0 <= self.silent_share <= 1):
            raise ValueError("a share is from 0 to 1")
        if not 400 <= self.error_status <= 599:
            raise ValueError("error_status is from 400 to 599")
        if not 0 <= self.delay_s <= SILENCE_S_MAX or self.retry_after_s < 0:
            raise ValueError(f"delay_s is from 0 to {SILENCE_S_MAX:g}, and retry_after_s not below 0")


class Desk:
    """Group commit: books the requests that arrived during the last transaction in the next one.

    Args:
        book: :meth:`SimulatedProvider.charge` or :meth:`SimulatedProvider.void`.
    """

    def __init__(self, book: Callable[[Sequence[Charge]], Awaitable[Mapping[UUID, Outcome]]]) -> None:
        self._book = book
        self._waiting: dict[UUID, tuple[Charge, asyncio.Future[Outcome]]] = {}
        self._busy = asyncio.Lock()

    async def decide(self, charge: Charge) -> Outcome:
        """The outcome of one charge or void."""
        while (other := self._waiting.get(charge.payment_id)) is not None:
            await asyncio.wait([other[1]])  # the same payment ID again, maybe with other contents
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[charge.payment_id] = charge, outcome
        async with self._busy:
            if not outcome.done():
                await self._work_off()
        return await outcome

    async def _work_off(self) -> None:
        taken, self._waiting = self._waiting, {}
        try:
            outcomes = await self._book([charge for charge, _ in taken.values()])
        except BaseException:
            for _, outcome in taken.values():
                outcome.cancel()
            raise
        for payment_id, (_, outcome) in taken.items():
            outcome.set_result(outcomes[payment_id])


class Bank:
    """The pages of the service."""

    def __init__(self, provider: SimulatedProvider) -> None:
        self._provider = provider
        self._desks = {"charge": Desk(provider.charge), "void": Desk(provider.void)}
        self._faults = Faults()

    def routes(self) -> list[web.RouteDef]:
        """The route table."""
        return [
            web.post("/charges", self.charge),
            web.post("/voids", self.void),
            web.get("/charges/{payment_id}", self.look_up),
            web.get("/ledger", self.ledger),
            web.get("/faults", self.show_faults),
            web.put("/faults", self.set_faults),
            web.get("/metrics", self.metrics),
            web.get("/healthz", self.ready),
            web.get("/readyz", self.ready),
        ]

    async def charge(self, request: web.Request) -> web.Response:
        """Pay."""
        return await self._decide(request, "charge")

    async def void(self, request: web.Request) -> web.Response:
        """Never pay."""
        return await self._decide(request, "void")

    async def _decide(self, request: web.Request, operation: str) -> web.Response:
        try:
            charge = msgspec.json.decode(await request.read(), type=Charge)
        except UNREADABLE as error:
            return _refusal(400, str(error))
        faults = Faults() if operation == "void" and not self._faults.voids else self._faults
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        if random.random() < faults.error_share:  # noqa: S311 nobody gains by guessing it
            after = {"Retry-After": str(faults.retry_after_s)} if faults.retry_after_s else {}
            return _refusal(faults.error_status, "out of order", after)
        outcome = await self._desks[operation].decide(charge)
        DECIDED.labels(operation, type(outcome).__name__.lower()).inc()
        if random.random() < faults.silent_share:  # noqa: S311 nobody gains by guessing it
            await asyncio.sleep(SILENCE_S_MAX)
        return _answer(outcome)

    async def look_up(self, request: web.Request) -> web.Response:
        """The outcome of a payment ID."""
        try:
            entry = await self._provider.look_up(UUID(request.match_info["payment_id"]))
        except ValueError:
            return _refusal(400, "not a UUID")
        except psycopg.OperationalError:
            return _refusal(503, "the ledger does not answer")
        return _json(entry) if entry is not None else _refusal(404, "never seen")

    async def ledger(self, request: web.Request) -> web.Response:
        """A page of the ledger."""
        try:
            entries = await self._provider.ledger(UUID(request.query.get("after", str(UUID(int=0)))), LEDGER_PAGE)
        except ValueError:
            return _refusal(400, "after is not a UUID")
        except psycopg.OperationalError:
            return _refusal(503, "the ledger does not answer")
        return _json(entries)

    async def show_faults(self, _request: web.Request) -> web.Response:
        """The faults injected now."""
        return _json(self._faults)

    async def set_faults(self, request: web.Request) -> web.Response:
        """Misbehave differently."""
        try:
            self._faults = msgspec.json.decode(await request.read(), type=Faults)
        except UNREADABLE as error:
            return _refusal(400, str(error))
        log.warning("faults", **msgspec.structs.asdict(self._faults))
        return _json(self._faults)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Everything counted."""
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def ready(self, _request: web.Request) -> web.Response:
        """Whether the ledger answers."""
        try:
            await self._provider.look_up(UUID(int=0))
        except psycopg.OperationalError:
            return _refusal(503, "the ledger does not answer")
        return web.Response(text="ready\n")


def run_provider(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, on the address of ``SETTLE_HTTP_HOST`` and ``SETTLE_HTTP_PORT``.

    Raises:
        EnvironmentRefusedError: ``SETTLE_ENV`` is production.
        OSError: the port is taken.
    """
    if is_production():
        raise EnvironmentRefusedError(
            "SETTLE_ENV=production refuses the simulated bank as a service: whoever reaches its /faults decides "
            "how payments end; set SETTLE_PROVIDER_URL to a real one"
        )
    configure_logs("provider")
    uvloop.run(_serve(settings))


async def _serve(settings: ServiceSettings) -> None:
    provider = SimulatedProvider(settings)
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.add_routes(Bank(provider).routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.http_host, settings.http_port).start()
        host, port = runner.addresses[0][:2]
        log.info("provider listens", url=f"http://{host}:{port}", pid=os.getpid())
        await stop.wait()
    finally:
        await runner.cleanup()
        await provider.close()


def _answer(outcome: Outcome) -> web.Response:
    if isinstance(outcome, Unavailable):
        return _refusal(503, outcome.reason)
    return _json({"status": type(outcome).__name__.lower(), **msgspec.structs.asdict(outcome)})


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _refusal(status: int, error: str, headers: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode({"error": error})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
