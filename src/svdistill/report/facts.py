"""What a report page says, as plain values for a script."""

from collections.abc import Mapping
from typing import Any

from svdistill.report import next_steps, reasons, tables, verdict
from svdistill.report.collect import Collection, Group, Regime
from svdistill.report.context import PageContext
from svdistill.report.statistics import Interval


def facts(context: PageContext) -> dict[str, Any]:
    """Return the results, the sentences about them, and what to try next.

    Args:
        context: of the page.

    Returns:
        Plain values, unrounded. Accuracies and gains are fractions, times seconds; None where there is no such number.
    """
    found: Collection = context.found
    return {
        "headline": verdict.headline(context),
        "regimes": [_regime(context, regime) for regime in found.regimes],
        "teachers": [str(run.path) for run in found.teachers],
        "next_steps": [step._asdict() for step in next_steps.steps(context)],
        "left_out": [{"path": path, "reason": reason} for path, reason in found.left_out],
    }


def _regime(context: PageContext, regime: Regime) -> Mapping[str, Any]:
    found = verdict.standing(regime)
    return {
        "conditions": dict(regime.conditions),
        "train_images": regime.train_images,
        "best": context.look(found.best).label,
        "runner_up": None if found.runner_up is None else context.look(found.runner_up).label,
        "lead": _interval(found.lead),
        "methods": [_method(context, group) for group in regime.groups],
    }


def _method(context: PageContext, group: Group) -> Mapping[str, Any]:
    spreads = {
        name: dict(zip(("mean", "deviation"), tables.mean_deviation(group.values(name)), strict=True))
        for name in ("accuracy", "best_accuracy")
    }
    return {
        "method": group.key.method,
        "label": context.look(group).label,
        "settings": dict(group.key.variant),
        "seeds": [run.seed for run in group.runs],
        **spreads,
        "gain": _interval(group.gain),
        "gains": [value / 100 for value in group.gains],
        **{name: group.mean(name) for name in ("parameters", "flops", "seconds")},
        "epochs": verdict.epochs(group),
        "health": reasons.health(group)._asdict(),
        "runs": [str(run.path) for run in group.runs],
    }


def _interval(points: Interval | None) -> Mapping[str, float | None] | None:
    """Return an interval in fractions."""
    if points is None:
        return None
    return {name: None if value is None else value / 100 for name, value in points._asdict().items()}
