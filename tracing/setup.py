"""Where do spans go, and which withdrawals are traced?

Configured by OpenTelemetry's own environment variables: without an OTLP endpoint nothing is exported and
nothing is paid for.
"""

import random
from functools import lru_cache

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tracing.delivery import BoundedSpans

LINKS_MAX = 1_000
"""Links of one span; the OpenTelemetry default, 128, is less than a batch holds under load."""


class TracingSettings(BaseSettings):
    """The OpenTelemetry variables that Settle reads itself; the exporter reads ``OTEL_EXPORTER_OTLP_*``."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", extra="ignore")

    exporter_otlp_endpoint: str | None = Field(None, description="OTLP/HTTP collector, http://host:4318")
    exporter_otlp_traces_endpoint: str | None = Field(None, description="for traces alone, full path")
    traces_sampler_arg: float = Field(1.0, ge=0, le=1, description="share of withdrawals traced, 0 to 1")
    sdk_disabled: bool = False

    @property
    def exports(self) -> bool:
        """Whether there is anywhere to send spans."""
        endpoint = self.exporter_otlp_endpoint or self.exporter_otlp_traces_endpoint
        return bool(endpoint) and not self.sdk_disabled


_provider: TracerProvider | None = None
_ratio = 0.0


def configure(
    service: str, *, settings: TracingSettings | None = None, exporter: SpanExporter | None = None
) -> None:
    """Name this process ``settle-<service>`` and start exporting, if a collector is configured.

    Args:
        service: ``account``, ``relay``, ``producer`` …
        settings: instead of those of the environment.
        exporter: instead of the OTLP exporter (tests).
    """
    global _provider, _ratio
    shutdown()
    settings = settings or TracingSettings()
    if not settings.exports and exporter is None:
        return
    # Who is traced is decided once, by `sample` at the root; everyone after follows the sampled flag.
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"settle-{service}"}),
        sampler=ParentBased(ALWAYS_ON),
        span_limits=SpanLimits(max_links=LINKS_MAX),
        shutdown_on_exit=False,
    )
    where = settings.exporter_otlp_traces_endpoint or settings.exporter_otlp_endpoint or "its own address"
    provider.add_span_processor(BoundedSpans(exporter or OTLPSpanExporter(), where))
    _provider, _ratio = provider, settings.traces_sampler_arg


def enabled() -> bool:
    """Whether this process exports spans."""
    return _provider is not None


def sample() -> bool:
    """Decide for a new withdrawal whether it is traced (``OTEL_TRACES_SAMPLER_ARG``, default 1.0)."""
    return _provider is not None and (_ratio >= 1.0 or random.random() < _ratio)


def tracer() -> trace.Tracer:
    """The tracer of this process; only meaningful where :func:`enabled`."""
    return _tracer_of(_provider)


@lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider | None) -> trace.Tracer:
    # Asked for anew, a tracer costs as much as the rest of a span's start.
    return (provider or trace.NoOpTracerProvider()).get_tracer("settle")


def shutdown() -> None:
    """Send what is queued (for a few seconds at the most) and stop exporting."""
    global _provider, _ratio
    provider, _provider, _ratio = _provider, None, 0.0
    if provider is not None:
        provider.shutdown()
