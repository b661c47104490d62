"""The advice: for each need, the approach with the best figures among those that meet it."""

from collections.abc import Callable, Sequence

from lab.comparison.results import Advice, Fault, Result

Pick = Callable[[Sequence[Result]], Advice | None]


def advise(results: Sequence[Result]) -> list[Advice]:
    """A recommendation for each need that one of the results can meet."""
    picks: tuple[Pick, ...] = (_single_database, _services, _audit_trail, _queues)
    return [advice for pick in picks if (advice := pick(results)) is not None]


def _single_database(results: Sequence[Result]) -> Advice | None:
    """Nothing is ever half done; of those, the fastest to the end."""
    able = [one for one in results if one.sound and not one.separate and one.consistency.seen == 0]
    if not able:
        return None
    best = min(able, key=lambda one: one.load.finished.p50_ms)
    return _advice(
        "one database holds everything",
        best,
        f"finished after {_ms(best.load.finished.p50_ms)} (median), never half done before a reader's eyes, "
        f"{best.facts.code_lines} lines and {_many(best.facts.moving_parts, 'moving part')}",
    )


def _services(results: Sequence[Result]) -> Advice | None:
    """No loss at a crash, requests accepted while a service is down, refusals compensated; the fastest."""
    able = [
        one
        for one in results
        if one.sound
        and one.separate
        and one.publishes
        and _fully_accepts(one.faults["outage"])
        and _none_waited(one)
    ]
    if not able:
        return None
    best = max(able, key=lambda one: one.load.per_second)
    down = best.faults["outage"]
    assert down is not None
    why = (
        f"accepted {down.accepted} of {down.asked} while the payment service's database was away and paid all "
        f"{_s(down.recovery_s)} after its return; {best.load.per_second:,.0f} a second"
    )
    other = next((one for one in results if one.name == "two_phase_commit"), None)
    held, away = (other.faults["halfway"], other.faults["outage"]) if other else (None, None)
    if held and away:
        why += (
            f". Two-phase commit accepted {away.accepted} of {away.asked}, and with its coordinator dead "
            f"{held.waited} of {held.asked} waited, up to {_s(held.waited_s_max)}"
        )
    return _advice("services with databases of their own", best, why)


def _audit_trail(results: Sequence[Result]) -> Advice | None:
    """Every step on record, sound; of those, the one with the fewest parts."""
    able = [one for one in results if one.sound and one.history]
    if not able:
        return None
    best = min(able, key=lambda one: (one.facts.moving_parts, one.load.finished.p50_ms))
    why = f"every step is a row that cannot be changed, {_many(best.facts.moving_parts, 'moving part')}"
    others = [f"{one.title} keeps them too, with {one.facts.moving_parts}" for one in able if one is not best]
    return _advice("an audit trail, the balance of any day", best, "; ".join([why, *others]))


def _queues(results: Sequence[Result]) -> Advice | None:
    """Published to others, no loss at a crash; of those with the fewest parts, the soonest.

    That an outbox alone does not refund refused payments does not count here: it is a way to publish.
    """
    able = [one for one in results if one.publishes and _survives(one)]
    if not able:
        return None
    least = min(one.facts.moving_parts for one in able)
    best = min((one for one in able if one.facts.moving_parts == least), key=lambda one: one.load.finished.p50_ms)
    why = f"in Kafka {_ms(best.load.finished.p50_ms)} after the call (median, under load)"
    slower = [
        f"{one.title}: {_ms(one.load.finished.p50_ms)}" for one in able if one is not best and not one.history
    ]
    left = best.faults["refused"]
    if left and left.for_a_person:
        why += "; refused payments are left to you, so add a way back: that is the saga"
    return _advice("others must hear of it through a queue", best, "; ".join([why, *slower]))


def _advice(need: str, best: Result, why: str) -> Advice:
    return Advice(need, best.name, best.title, why)


def _fully_accepts(fault: Fault | None) -> bool:
    return fault is not None and fault.accepted == fault.asked


def _none_waited(one: Result) -> bool:
    fault = one.faults["halfway"]
    return fault is None or fault.waited == 0


def _survives(one: Result) -> bool:
    return one.load.right and all(
        fault.right for name, fault in one.faults.items() if fault is not None and name != "refused"
    )


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def _s(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
