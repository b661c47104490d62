"""What a person confirms who redrives dead letters that cannot be verified: the same words everywhere."""

from typing import Final

UNVERIFIED: Final = (
    "Also send letters that cannot be verified: the original is gone from its topic, or another message is at its "
    "place. Whoever may write dead letters may have made them up, and services act on what they say."
)
