"""The tables of what `python -m benchmarks gpu` measures; what was not measured stands in them as such."""

import statistics
from collections.abc import Callable, Mapping

from benchmarks.gpu.numerics import FOLLOWED, METHODS
from benchmarks.gpu.row import ROWS, TEACHER
from benchmarks.gpu.scale import CIFAR_IMAGES, EPOCHS
from benchmarks.gpu.step import (
    COMPILED,
    EAGER,
    IMAGES_PER_SECOND,
    LOSS_SHARE,
    OVER_EAGER,
    PLAIN,
    RUN_SECONDS,
    STEP_MS,
    STRAIGHTFORWARD,
)
from benchmarks.layout import Figures, grid, is_spread, judged, number
from svdistill.report.statistics import paired_differences, paired_interval

NOTHING: Figures = {"results": {}, "errors": {}, "missing": {}, "finished": True}
UNMEASURED = "not measured"

LAYOUTS = ("bf16, channels-last, 128", "float32, 128", "bf16, channels-last, 1024", "float32, 1024")
WAYS = (
    PLAIN,
    "plain student, captured",
    STRAIGHTFORWARD,
    EAGER,
    COMPILED,
    "KD-SVD, captured",
    "without the transfer loss, captured",
    "KD-SVD, stored knowledge, captured",
)
TARGETS = {
    "ms a step": f"≤ {STEP_MS:g}",
    "images a second": f"≥ {IMAGES_PER_SECOND:,}",
    "captured, times faster than eager": f"≥ {OVER_EAGER:g}",
    "share of the transfer loss, by kernels": f"≤ {LOSS_SHARE:g}",
    "share of the transfer loss, by the step without it": f"≤ {LOSS_SHARE:g}",
    f"seconds for {EPOCHS} epochs of {CIFAR_IMAGES:,} images, evaluation included": f"≤ {RUN_SECONDS}",
}


def numerics(figures: Figures) -> str:
    """Return how far losses and gradients are from float64, and captured steps from eager ones."""
    results = figures["results"]
    keys = ("loss", "median", "95 %", "largest")
    rows = []
    for name in METHODS:
        found = results.get(f"{name}: float64")
        own = [UNMEASURED] * len(keys) if found is None else [_scientific(found["card"][key]) for key in keys]
        beside = UNMEASURED if found is None else _scientific(found["cpu"]["95 %"])
        goals = [] if found is None else [key for key in ("median", "95 %") if key in found]
        for key in goals:
            own[keys.index(key)] += _verdict(found[key])
        rows.append([name, *own, beside])
    head = ["", "loss", "gradient: median image", "95 %", "largest", "95 % on the CPU"]
    parts = ["Relative difference from float64 on the CPU, in float32.", grid(head, rows)]
    rows = []
    for name in FOLLOWED:
        found = results.get(f"{name}: captured")
        if found is None:
            reason = figures["missing"].get(f"{name}: captured", "")
            rows.append([f"`{name}`", reason or UNMEASURED, UNMEASURED, UNMEASURED])
            continue
        weights = _scientific(found["weights"]["value"]) + _verdict(found["weights"])
        rows.append([f"`{name}`", _scientific(found["losses"]), weights, _scientific(found["eager against itself"])])
    head = ["method", "losses", "weights", "weights, eager against itself"]
    parts += [
        "Captured steps against eager ones over 200 steps from the same weights, float32; weights relative to how far "
        "they have moved.",
        grid(head, rows),
    ]
    return _with_notes(parts, figures)


def step(figures: Figures) -> str:
    """Return every way to take a step, the targets, and the kernels."""
    results = figures["results"]
    found = results.get("targets", {})
    rows = [
        [name, _target(found[name]) if name in found else UNMEASURED, limit if name not in found else ""]
        for name, limit in TARGETS.items()
    ]
    parts = [f"{LAYOUTS[0]} images a step, against the targets:", grid(["", "", "target"], rows)]
    rows = []
    for way in WAYS:
        cells = [results.get(f"{layout}: {way}") for layout in LAYOUTS]
        rows.append([way, *(UNMEASURED if c is None else _time_and_rate(c) for c in cells)])
    parts += ["Milliseconds a step (images a second):", grid(["", *LAYOUTS], rows)]
    for layout in LAYOUTS:
        if share := results.get(f"{layout}: share of the transfer loss"):
            kernels = [
                [
                    f"`{row['kernel']}`".replace("|", "\\|"),
                    number(row["µs"]),
                    number(row["calls"]),
                    f"{row['share']:.1%}",
                ]
                for row in share["kernels"]
            ]
            parts += [
                f"### Kernels of a captured KD-SVD step, {layout}",
                f"{number(share['kernels, µs a step'])} µs a step in {number(share['launched kernels a step'])} "
                f"kernels; {number(share['kernels without the transfer loss, µs a step'])} µs without the loss.",
                grid(["kernel", "µs", "calls", "share"], kernels),
            ]
    return _with_notes(parts, figures)


def decomposition(figures: Figures) -> str:
    """Return every solver on every tap; what was given up says why, below."""
    measured = [row for rows in figures["results"].values() for row in rows]
    if not measured:
        return _with_notes(["Not measured: no GPU was at hand."], figures)
    solvers = [key for key in ("auto", "eigh", "subspace", "squaring", "lapack") if any(key in row for row in measured)]
    reasons = {f"{s}: {row[s]}" for row in measured for s in solvers if isinstance(row.get(s), str)}
    rows = [
        [
            row["taps"],
            f"{row['positions']} × {row['channels']}",
            str(row["batch"]),
            str(row["rank"]),
            row["part"],
            *(number(row[s]["median_ms"]) if is_spread(row.get(s)) else "–" for s in solvers),
            row["auto is"],
        ]
        for row in measured
    ]
    head = ["taps", "N × D", "batch", "k", "part", *(f"{s}, ms" for s in solvers), "auto is"]
    left_out = [f"–: {'; '.join(sorted(reasons))}."] if reasons else []
    return _with_notes(["Medians.", grid(head, rows), *left_out], figures)


def row(figures: Figures) -> str:
    """Return accuracies of the published row, their gains over the student alone, and what the runs took."""
    results = figures["results"]
    plan = results.get("plan", {})
    epochs, wanted = plan.get("epochs", EPOCHS), plan.get("published epochs", EPOCHS)
    named = {"teacher": TEACHER, **ROWS}
    by_seed = {name: _seeds(results, name) for name in named}
    rows = []
    for name, (title, _, _, published) in named.items():
        runs, printed = by_seed[name], "" if published is None else f"{published:.2f}"
        if not runs:
            rows.append([title, printed, UNMEASURED, "", "", ""])
            continue
        accuracy = {seed: run["accuracy"] for seed, run in runs.items()}
        alone = {seed: run["accuracy"] for seed, run in by_seed["alone"].items()}
        gain = "" if name in ("teacher", "alone") else _gain(accuracy, alone)
        seconds = statistics.mean(run["seconds"] for run in runs.values())
        rows.append([title, printed, _mean(list(accuracy.values())), gain, str(len(runs)), number(seconds)])
    head = ["", "published, %", "accuracy, %", "gain", "seeds", "seconds a run"]
    parts = [f"{epochs} epochs, bf16-mixed, channels-last, batches of 128."]
    if epochs < wanted:
        parts[0] += f" **The paper has {wanted} epochs**; there was no time for as many."
    parts.append(grid(head, rows))
    if beside := results.get("side by side"):
        parts.append(
            f"{beside['timed side by side']} runs side by side do {beside['times as much in the same time']:.2f} times "
            "as much in the same time as one after the other."
        )
    gpus = sorted({str(run["gpu"]) for runs in by_seed.values() for run in runs.values()})
    warnings = sorted({text for runs in by_seed.values() for run in runs.values() for text in run["warnings"]})
    parts += [f"Trained on: {', '.join(gpus)}."] if gpus else []
    parts += [f"Said by the runs: {'; '.join(warnings)}."] if warnings else []
    return _with_notes(parts, figures)


def _seeds(results: Figures, name: str) -> dict[int, Figures]:
    if name == "teacher":
        return {0: results[name]} if name in results else {}
    front = f"{name}, seed "
    return {int(run.removeprefix(front)): found for run, found in results.items() if run.startswith(front)}


def _mean(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _gain(accuracy: Mapping[int, float], alone: Mapping[int, float]) -> str:
    differences = paired_differences(accuracy, alone)
    if not differences:
        return ""
    found = paired_interval(differences)
    if found.low is None or found.high is None:
        return f"{found.mean:+.2f}"
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _scientific(value: float) -> str:
    return f"{value:.0e}"


def _verdict(goal: Figures) -> str:
    met = goal["value"] <= goal["at_most"]
    return f" (≤ {goal['at_most']:.0e}: {'met' if met else '**not met**'})"


def _target(goal: Figures) -> str:
    return judged(goal["value"], ".3g", at_most=goal.get("at_most"), at_least=goal.get("at_least"))


def _time_and_rate(found: Figures) -> str:
    return f"{number(found['median_ms'])} ({number(found['images_per_s'])})"


def _with_notes(parts: list[str], figures: Figures) -> str:
    """Add what failed, what was not measured and why, and whether the part was cut off."""
    errors = [f"- {case}: **failed**: {reason}" for case, reason in figures["errors"].items()]
    missing = [f"- {case}: not measured: {reason}" for case, reason in figures["missing"].items()]
    cut = [] if figures["finished"] else ["Cut off before its end."]
    return "\n\n".join([*parts, *(["\n".join(errors + missing)] if errors or missing else []), *cut])


SECTIONS: dict[str, Callable[[Figures], str]] = {
    "gpu-numerics": numerics,
    "gpu-step": step,
    "gpu-decomposition": decomposition,
    "gpu-row": row,
}
