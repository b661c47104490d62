"""How else could $100 be withdrawn? Five ways, each a page, on the same request, load and faults.

The pages: :mod:`approaches.monolith`, :mod:`approaches.two_phase_commit`, :mod:`approaches.saga`,
:mod:`approaches.event_sourcing`, :mod:`approaches.outbox`; and :mod:`approaches.naive`, the way that loses money.
What runs, measures and hurts them is in :mod:`approaches.lab`.
"""
