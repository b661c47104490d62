"""What can be wrong with a wish about dead letters?"""


class DeadLetterError(ValueError):
    """No such dead letter, or one for which this cannot be done any more; the text is one line for a person."""
