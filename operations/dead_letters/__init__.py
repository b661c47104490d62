"""Dead letters: listed, redriven to their topic once the cause is fixed, or discarded."""
