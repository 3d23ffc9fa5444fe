"""The time left for a whole run in words, as roughly as it is known."""

from __future__ import annotations

from dbrun.events import TimeLeft

OVERDUE_SECONDS = 10.0
"""Seconds after which a stage that should be done is said to take longer."""
LABEL = "whole run: "


def time_left_text(known: TimeLeft, elapsed: float) -> str:
    """The time left, such as "whole run: about 3 min left". elapsed: seconds since the event."""
    stage_seconds = known.stage_seconds or 0.0
    seconds = known.seconds - min(elapsed, stage_seconds)
    if known.stage not in known.unknown and elapsed > stage_seconds + OVERDUE_SECONDS:
        after = f"; about {rough_duration(seconds)} left after it" if seconds >= 1 else " than expected"
        return f"{LABEL}{known.stage} takes longer{after}"
    if not known.unknown:
        return f"{LABEL}about {rough_duration(seconds)} left"
    soon = f"known soon after {known.known_with} begins"
    if known.known_with == known.stage:
        soon = "known soon"
    if seconds < 1:
        when = soon if known.known_with else "not known"
        return f"{LABEL}time left is {when}"
    more = f"; more is {soon}" if known.known_with else ""
    return f"{LABEL}at least {rough_duration(seconds)} left{more}"


def rough_duration(seconds: float) -> str:
    """A duration without false precision: a few seconds, 25 s, 3 min, 2 h 10 min, 30 h."""
    if seconds < 7.5:
        return "a few seconds"
    if seconds < 57.5:
        return f"{round(seconds / 5) * 5} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{max(1, minutes)} min"
    if minutes < 600:
        tens = round(minutes / 10)
        return f"{tens // 6} h {tens % 6 * 10:02d} min"
    return f"{round(seconds / 3600)} h"
