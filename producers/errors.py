"""The producers' exceptions: one base class, one line of text each."""


class ProducerError(Exception):
    """Base of everything this package raises; its text is one line for a person."""


class InvalidRequestError(ProducerError, ValueError):
    """A request that was refused before it was sent; the text says what is wrong with it."""


class NotDeliveredError(ProducerError):
    """Kafka did not confirm a request; the text names the address and the reason.

    It may have been written all the same (the confirmation can be what was lost). Sending it again with the same
    payment ID is safe: a payment ID is acted on once.
    """


class DeniedError(NotDeliveredError):
    """Kafka's user lacks a right (ACL) to write that; nothing was written."""


class RefusedError(ProducerError):
    """The API's answer to a request that it will not carry out, however often it is repeated.

    Attributes:
        status: of HTTP.
        kind: which problem it is, such as ``key-reused``; empty where somebody else answered.
    """

    def __init__(self, text: str, status: int, kind: str) -> None:
        super().__init__(text)
        self.status, self.kind = status, kind


class NotAnsweredError(ProducerError):
    """The API did not answer a request in time, or only that it cannot just now; the text names the last reason.

    It may have been stored all the same. Asking again with the same key or payment ID is safe.
    """
