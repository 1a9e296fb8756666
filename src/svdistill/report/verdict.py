"""What may be said of some methods beside each other: which is best, by how much, and whether it may be chance."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from svdistill.methods import BASELINE
from svdistill.report.collect import Group, Regime, taught_apart, teachers_in, unlike
from svdistill.report.context import PageContext, accuracy, capital, conditions
from svdistill.report.numbers import signed
from svdistill.report.statistics import Interval, paired_differences, paired_interval, seeds_needed
from svdistill.report.tables import not_equally_long, plural

MAX_SENTENCES = 4  # regimes that have a paragraph of their own
MAX_NAMED = 4  # methods in a sentence
_MOST_SEEDS = 50  # more are not advised: so small a difference hardly matters


class Standing(NamedTuple):
    """Where the methods of a regime stand; where some have several seeds, those with a single one are not ranked.

    Attributes:
        best: the method of the highest mean accuracy; the student alone where another only draws level with it.
        alone: the student alone; None where it is not there.
        runner_up: the next best; None where there is no other.
        lead: of the best over the runner-up in points, on the seeds that both have; None without such seeds.
        lead_seeds: how many these are.
        unranked: methods with a single seed, where others have several.
    """

    best: Group
    alone: Group | None
    runner_up: Group | None
    lead: Interval | None
    lead_seeds: int
    unranked: Sequence[Group] = ()

    @property
    def wins(self) -> bool:
        """Whether a method is better than the student alone, and the interval excludes zero."""
        return self.best is not self.alone and is_gain(self.best.gain)


def is_gain(interval: Interval | None) -> bool:
    """Whether an interval lies above zero as a whole."""
    return interval is not None and interval.low is not None and interval.low > 0


def is_loss(interval: Interval | None) -> bool:
    """Whether an interval lies below zero as a whole."""
    return interval is not None and interval.high is not None and interval.high < 0


def standing(regime: Regime) -> Standing:
    """Put the methods of a regime in order of their mean accuracy after the last epoch."""
    several = [group for group in regime.groups if len(group.runs) > 1 or group.key.method == BASELINE]
    ranked = several if any(group.key.method != BASELINE for group in several) else regime.groups
    ordered = sorted(ranked, key=lambda group: (-group.mean("accuracy"), group.key.method != BASELINE))
    unranked = [group for group in regime.groups if group not in ranked]
    alone = next((group for group in regime.groups if group.key.method == BASELINE), None)
    best, runner_up = ordered[0], ordered[1] if len(ordered) > 1 else None
    differences = [] if runner_up is None else _differences(best, runner_up)
    lead = paired_interval(differences) if differences else None
    return Standing(best, alone, runner_up, lead, len(differences), unranked)


def headline(context: PageContext) -> list[str]:
    """Say what happened: of all regimes in one sentence, then of each in a paragraph."""
    regimes = context.found.regimes
    said = [_of_all(context, regimes)] if len(regimes) > 1 else []
    said += [finding(context, regime) for regime in (regimes if len(regimes) <= MAX_SENTENCES else [context.main])]
    return said


def finding(context: PageContext, regime: Regime) -> str:
    """Say which method of a regime won, by how much, whether that is certain, and what is next to it."""
    found, under = standing(regime), conditions(regime)
    text = _first(context, found)
    text = f"{capital(under)}: {text}" if under else capital(text)
    cautions = [*_longer(context, regime, found), *_unlike(context, found), *_trained_again(context, regime)]
    return " ".join([text, *cautions, *_second(context, found), *_others(context, regime, found)])


def seeds_for(gain: Interval | None, gains: Sequence[float]) -> int | None:
    """Return how many seeds would tell a gain of this size and spread from zero; None where that is no sensible number.

    Args:
        gain: mean and interval.
        gains: one for each seed.
    """
    if gain is None or gain.low is None or gain.mean == 0 or is_gain(gain) or is_loss(gain):
        return None
    return seeds_needed(gains, most=_MOST_SEEDS)


def longer(found: Standing) -> list[Group]:
    """Return which of the student alone and the runner-up trained for fewer epochs than the best method."""
    best = epochs(found.best)
    others = dict.fromkeys((found.alone, found.runner_up))
    return [group for group in others if group is not None and best is not None and (epochs(group) or best) < best]


def epochs(group: Group) -> int | None:
    """Return for how many epochs a method trained, those of a first stage among them."""
    found = group.runs[0].summary.get("epochs")
    return found if isinstance(found, int) else None


def _of_all(context: PageContext, regimes: Sequence[Regime]) -> str:
    """Sum up several regimes: how often each method won."""
    found = list(map(standing, regimes))
    compared = [one for one in found if one.alone is not None and one.runner_up is not None]
    counts = Counter(context.look(one.best).label for one in compared if one.wins)
    number = f"{len(regimes)} settings"
    if len(compared) < len(regimes):
        number = f"the {plural(len(compared), 'setting')} with a student alone and a method ({len(regimes)} in all)"
    if not compared:
        return f"None of {len(regimes)} settings has a student alone and a method beside it, to be compared."
    if not counts:
        return f"In none of {number} is a method better than the student alone with an interval that excludes zero."
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    won = ", ".join(f"{label} in {times}" for label, times in ordered)
    if len(ordered) == 1 and ordered[0][1] == len(compared):
        won = f"{ordered[0][0]} in each"
    return f"Best, and better than the student alone with an interval that excludes zero: {won} of {number}."


def _first(context: PageContext, found: Standing) -> str:
    """Say what won, by how much, and whether the interval excludes zero."""
    best, label = found.best, context.look(found.best).label
    reaches = accuracy(best)
    if found.runner_up is None:
        return f"{label} reaches {reaches}; there is nothing to compare it with."
    if best is found.alone:
        return f"nothing beat the student alone, which reaches {reaches}."
    if found.alone is None:
        return f"{label} is best, at {reaches}; without a student alone, nobody knows what it gained."
    if best.gain is None:
        return f"{label} is best, at {reaches}, but has no seed in common with the student alone: no gain is certain."
    by = f"{_points(best.gain)} over the student alone{_on(len(best.gains), best)}"
    if best.gain.low is None:
        return f"{label} came out best, at {reaches}, {by} on one seed: not seeds enough to tell it from chance."
    if found.wins:
        return f"{label} won, at {reaches}: {by} ({_interval(best.gain)}, which excludes zero)."
    doubt = "" if is_loss(best.gain) else ", which includes zero"
    but = "but where both have a seed" if is_loss(best.gain) else "but cannot be told apart from the student alone"
    return f"{label} came out best, at {reaches}, {but}: {by} ({_interval(best.gain)}{doubt})."


def _longer(context: PageContext, regime: Regime, found: Standing) -> list[str]:
    """Say that the best method trained for longer than what it is compared with, or that not all trained as long."""
    shorter = longer(found)
    if not shorter:
        lengths: dict[int, list[str]] = {}
        for group in regime.groups:
            if (length := epochs(group)) is not None:
                lengths.setdefault(length, []).append(context.look(group).label)
        return [not_equally_long(lengths)] if len(lengths) > 1 else []
    label = context.look(found.best).label
    rest = " and ".join(
        f"{'the student alone' if group is found.alone else context.look(group).label} for {epochs(group)}"
        for group in shorter
    )
    return [
        f"{label} trained for {epochs(found.best)} epochs, {rest}: a part of the difference may be the longer training."
    ]


def _unlike(context: PageContext, found: Standing) -> list[str]:
    """Say that the best method had other settings, not its own, or another teacher than what it is compared with."""
    said = []
    for other in dict.fromkeys((found.alone, found.runner_up)):
        if other is None:
            continue
        who = "the student alone" if other is found.alone else context.look(other).label
        apart = {key for key, _ in (*found.best.key.variant, *other.key.variant)}  # which their names say
        unlike_settings = unlike(found.best.runs[0], other.runs[0])
        differing = {key: both for key, both in unlike_settings.items() if key not in apart}
        if not unlike_settings and taught_apart(found.best, other):
            said.append(
                f"{context.look(found.best).label} and {who} learned from two trainings of the teacher. The difference "
                "may come from these."
            )
        if not differing:
            continue
        named = [f"{key} {_value(ours)} against {_value(theirs)}" for key, (ours, theirs) in differing.items()]
        more = [f"{len(named) - MAX_NAMED} more"] if len(named) > MAX_NAMED else []
        said.append(
            f"{context.look(found.best).label} was not trained as {who} was: {'; '.join([*named[:MAX_NAMED], *more])}. "
            "The difference may come from these settings."
        )
    return said


def _trained_again(context: PageContext, regime: Regime) -> list[str]:
    """Say of which methods the seeds learned from several trainings of what should be one teacher."""
    several = [context.look(group).label for group in regime.groups if teachers_in(group) > 1]
    if not several:
        return []
    named = " and ".join(several) if len(several) <= MAX_NAMED else f"{len(several)} methods"
    return [
        f"The seeds of {named} learned from several trainings of the teacher, so that a part of their spread is the "
        "teachers'."
    ]


def _value(value: object) -> str:
    return "none" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _second(context: PageContext, found: Standing) -> list[str]:
    """Say what the runner-up is, and whether the best is ahead of it."""
    second = found.runner_up
    if second is None or second is found.alone:  # the first sentence has spoken of it
        return []
    best, label = context.look(found.best).label, context.look(second).label
    best = f"the {best}" if found.best is found.alone else best
    text = f"{'Next' if found.best is found.alone else 'The runner-up'} is {label}, at {accuracy(second)}: "
    lead = found.lead
    if lead is None:
        return [f"{text}no seed in common says which of the two is better."]
    by = f"{abs(lead.mean):.2f} points{_on(found.lead_seeds, found.best)}"
    if lead.low is None:
        return [f"{text}{by} apart on one seed, which may be chance."]
    if is_gain(lead):
        return [f"{text}{best} is ahead of it by {by} ({_interval(lead)}, which excludes zero)."]
    if is_loss(lead):
        return [f"{text}{best} is behind it by {by} ({_interval(lead)}, which excludes zero)."]
    between = f"{abs(lead.mean):.2f} points between them{_on(found.lead_seeds, found.best)}"
    return [f"{text}the two cannot be told apart: {between} ({_interval(lead)}, which includes zero)."]


def _others(context: PageContext, regime: Regime, found: Standing) -> list[str]:
    """Name the other methods that are certainly better, or certainly worse, than the student alone."""
    told = (found.best, found.alone, *found.unranked, *((found.runner_up,) if found.best is found.alone else ()))
    others = [group for group in regime.groups if group not in told]
    said = []
    for test, what in ((is_gain, "Also better than the student alone"), (is_loss, "Worse than the student alone")):
        named = [f"{context.look(g).label}, {_points(g.gain)}" for g in others if g.gain is not None and test(g.gain)]
        if len(named) > MAX_NAMED:
            said.append(f"{what}, with intervals that exclude zero: {len(named)} other methods, in bold below.")
        elif named:
            said.append(f"{what}, with intervals that exclude zero: {'; '.join(named)}.")
    if found.unranked:
        named = [f"{context.look(group).label}, {accuracy(group)}" for group in found.unranked]
        said.append(f"Not ranked, as they have one seed: {'; '.join(named)}.")
    return said


def _differences(group: Group, other: Group) -> list[float]:
    ours, theirs = ({run.seed: 100 * float(run.summary["accuracy"]) for run in one.runs} for one in (group, other))
    return paired_differences(ours, theirs)


def _on(seeds: int, best: Group) -> str:
    """Say on how many seeds a difference was measured; which is one, other words say."""
    common = "seeds" if seeds == len(best.runs) else "seeds in common"
    return f" on {seeds} {common}" if seeds > 1 else ""


def _points(gain: Interval) -> str:
    return f"{signed(gain.mean)} points"


def _interval(gain: Interval) -> str:
    """Write an interval so that an end that is not zero does not look like it."""
    low, high = gain.low or 0.0, gain.high or 0.0
    digits = next((n for n in (2, 3, 4) if all(round(end, n) or not end for end in (low, high))), 5)
    return f"95 % interval {signed(low, digits=digits)} to {signed(high, digits=digits)}"
