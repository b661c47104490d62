"""Five ways to withdraw $100, each a page, on the same request, load and faults.

The pages: :mod:`lab.approaches.monolith`, :mod:`lab.approaches.two_phase_commit`, :mod:`lab.approaches.saga`,
:mod:`lab.approaches.event_sourcing`, :mod:`lab.approaches.outbox`; and :mod:`lab.approaches.naive`, the way that
loses money. What runs, measures and hurts them is in :mod:`lab.comparison`.
"""
