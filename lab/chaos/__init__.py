"""Does the promise hold whatever dies, whenever? Load, faults by a seeded plan, recovery, proof."""
