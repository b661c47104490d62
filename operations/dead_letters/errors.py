"""The error of an operation on dead letters that cannot be carried out."""


class DeadLetterError(ValueError):
    """No such dead letter, or its state does not allow the operation; the text is one line for a person."""
