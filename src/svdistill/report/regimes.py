"""The section that puts regimes side by side: each method's accuracy and gain under each of several conditions."""

from svdistill.report.collect import Group, Key, Regime
from svdistill.report.context import Cell, PageContext, Rows, Section, capital, conditions
from svdistill.report.numbers import points
from svdistill.report.verdict import is_gain, is_loss

MAX_COLUMNS = 4


def side_by_side(context: PageContext) -> Section | None:
    """Make the section; None where there is one regime only."""
    regimes = context.found.regimes
    if len(regimes) < 2:
        return None
    keys = list(dict.fromkeys(key for key in context.looks if any(_of(regime, key) for regime in regimes)))
    tables = []
    for first in range(0, len(regimes), MAX_COLUMNS):
        part = regimes[first : first + MAX_COLUMNS]
        shown = [key for key in keys if any(_of(regime, key) for regime in part)]
        rows = [[Cell(context.looks[key].label), *(_cell(_of(regime, key)) for regime in part)] for key in shown]
        tables.append(Rows(("method", *(capital(conditions(regime)) for regime in part)), rows))
    lead = (
        f"{context.accuracy} after the last epoch in percent, and below it the gain over the student alone in "
        "points with its 95 % interval; bold where that excludes zero. Compare methods within a column: from column to "
        "column the conditions change."
    )
    return Section("regimes", "Side by side", lead, tables=tables)


def _of(regime: Regime, key: Key) -> Group | None:
    return next((group for group in regime.groups if group.key == key), None)


def _cell(group: Group | None) -> Cell:
    if group is None:
        return Cell("–")
    reached = f"{100 * group.mean('accuracy'):.2f}"
    if group.gain is None:
        return Cell(reached)
    return Cell(reached, "sure" if is_gain(group.gain) or is_loss(group.gain) else "", points(group.gain))
