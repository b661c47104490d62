"""Payment providers: a simulated one in this process, and one behind HTTP."""

import structlog

from contracts.production import is_production
from processors.payment.gateway import PaymentGateway
from processors.runtime.settings import ServiceSettings

log = structlog.get_logger()


def gateway_for(settings: ServiceSettings) -> PaymentGateway:
    """The configured provider: over HTTP where a URL is given, otherwise simulated in this process."""
    if settings.provider_url is not None:
        from processors.payment.provider.http import HttpProvider

        return HttpProvider(settings)
    from processors.payment.provider.simulated import SimulatedProvider

    if is_production():
        log.warning("payments are simulated, and no money leaves: SETTLE_PROVIDER_URL names no provider")
    return SimulatedProvider(settings)
