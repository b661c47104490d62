"""Payment providers: a simulated one in this process, and one behind HTTP."""

from processors.payment.gateway import PaymentGateway
from processors.runtime.settings import ServiceSettings


def gateway_for(settings: ServiceSettings) -> PaymentGateway:
    """The configured provider: over HTTP where a URL is given, otherwise simulated in this process."""
    if settings.provider_url is not None:
        from processors.payment.provider.http import HttpProvider

        return HttpProvider(settings)
    from processors.payment.provider.simulated import SimulatedProvider

    return SimulatedProvider(settings)
