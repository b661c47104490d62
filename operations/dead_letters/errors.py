"""The error of a request about dead letters that cannot be carried out."""


class DeadLetterError(ValueError):
    """No such dead letter, or one for which this cannot be done any more; the text is one line for a person."""
