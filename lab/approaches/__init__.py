"""Five ways to withdraw $100, one module each, under the same request, load and faults.

The modules: :mod:`lab.approaches.monolith`, :mod:`lab.approaches.two_phase_commit`, :mod:`lab.approaches.saga`,
:mod:`lab.approaches.event_sourcing`, :mod:`lab.approaches.outbox`; and :mod:`lab.approaches.naive`, the way that
loses money. What runs, measures and fails them is in :mod:`lab.comparison`.
"""
