"""One value for several scores of each candidate: how far each score has come from the worst to the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbrun.scores.base import scores


def combined_values(means: Mapping[str, Sequence[float]], base: Mapping[str, float]) -> tuple[float, ...]:
    """Combined value of each candidate, from 0 (the worst by every score) to 1 (the best by every score).

    means: name of a score -> its mean for each candidate, all in the same order; base: the same for the base without
    adapter. The value is the mean over the scores of (value - worst) / (best - worst), in each score's direction, worst
    and best being those of the candidates and the base. A score that is the same for all is left out.
    """
    from statistics import fmean

    shares: list[list[float]] = []
    for name, values in means.items():
        # the base is among them: it knows no subject and follows prompts best, so that small differences between
        # candidates that all have learnt the subject stay small
        low, high = min(*values, base[name]), max(*values, base[name])
        if low == high:
            continue
        best, worst = (high, low) if scores()[name].HIGHER_IS_BETTER else (low, high)
        shares.append([(value - worst) / (best - worst) for value in values])
    count = len(next(iter(means.values())))
    if not shares:
        return (0.0,) * count
    return tuple(fmean(of_candidate) for of_candidate in zip(*shares, strict=True))
