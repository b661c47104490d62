"""``settle …``: everything a person does with Settle from a terminal.

Each command imports what it needs when it runs, so that ``settle --help`` and ``settle run`` start fast.
"""
