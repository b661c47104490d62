"""Values as the API writes them."""

from contracts.money import format_amount


def amount_text(amount_minor: int, currency: str) -> str:
    """An amount in major units as decimal text without separators: ``1000.00``, of yen ``1000``."""
    return format_amount(amount_minor, currency).replace(",", "")
