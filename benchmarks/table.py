"""The tables of the docs' pages, made from the figures in `docs/benchmarks/NAME.json` and from nothing else.

Each benchmark has a function that makes its section; one without is laid out by the shape of its figures. In a page a
section stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``; the prose around it stays.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import gains, regimes
from benchmarks.gpu import tables as gpu_tables
from benchmarks.layout import Figures, grid, is_rate, is_spread, is_target, judged, number, pair, spread
from benchmarks.loss import Case

ROOT = Path(__file__).resolve().parent.parent
PAGES = tuple(ROOT / "docs" / name for name in ("benchmarks.md", "results.md", "choosing.md"))
FIGURES = ROOT / "docs" / "benchmarks"
NOT_MEASURED = "Not measured yet."


def adopt(source: Path, *, figures: Path = FIGURES) -> list[Path]:
    """Copy the JSON files of a folder into that of the published figures, and return the copies.

    Raises:
        SystemExit: there are none, or one is of a rehearsal.
    """
    found = sorted(source.glob("*.json"))
    if not found:
        raise SystemExit(f"error: no JSON files in {source}; run `python -m benchmarks` first")
    for path in found:
        if json.loads(path.read_text()).get("rehearsal"):
            raise SystemExit(
                f"error: {path} is of a rehearsal, which measures nothing; run without --rehearse on a GPU"
            )
    figures.mkdir(exist_ok=True)
    return [Path(shutil.copy(path, figures / path.name)) for path in found]


def update(pages: Sequence[Path] = PAGES, *, figures: Path = FIGURES) -> None:
    """Write every section of the pages anew.

    Raises:
        SystemExit: no page has a section for some figures, or a section does not end.
    """
    texts = {page: page.read_text() for page in pages}
    places = {name for text in texts.values() for name in sections(text)}
    for path in sorted(figures.glob("*.json")):
        if path.stem not in places:
            lines = f"<!-- {path.stem} --> <!-- /{path.stem} -->"
            raise SystemExit(f"error: no page has a place for {path.stem}: add the lines {lines}")
    made = {page: filled(text, figures) for page, text in texts.items()}
    for page, text in made.items():
        page.write_text(text)


def sections(text: str) -> list[str]:
    """Return the names of the sections of a page."""
    return [line[5:-4] for line in text.splitlines() if line.startswith("<!-- ") and not line.startswith("<!-- /")]


def filled(text: str, figures: Path) -> str:
    """Return a page whose sections are made from the figures in a folder; where there are none, the section says so.

    Raises:
        SystemExit: a section does not end.
    """
    known = {path.stem: json.loads(path.read_text()) for path in sorted(figures.glob("*.json"))}
    for name in sections(text):
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(start)
        _, mark, after = rest.partition(end)
        if not mark:
            raise SystemExit(f"error: the page has no {end}")
        if name in _OF_SEVERAL:
            made = _OF_SEVERAL[name](known)
        else:
            made = section(name, known[name]) if name in known else _UNMEASURED.get(name, lambda: NOT_MEASURED)()
        text = f"{before}{start}\n{made}\n\n{end}{after}"
    return text


def section(name: str, figures: Figures) -> str:
    """Return the tables of a benchmark and the line that says where they were measured, as Markdown."""
    body = {key: value for key, value in figures.items() if key != "machine"}
    made = partial(regimes.table, apart=True) if regimes.apart_from(name) else _SECTIONS.get(name, by_shape)
    return f"{made(body)}\n\n{machine_line(figures['machine'])}"


def machine_line(machine: Figures) -> str:
    """Return one sentence about where figures come from; it says so when there was no GPU."""
    instructions = machine.get("instructions")
    load = machine.get("load_before")
    allocator = machine["allocator"]
    if isinstance(allocator, Mapping):
        allocator = "allocator " + ", ".join(f"{key}={value}" for key, value in allocator.items())
    else:
        allocator = f"allocator: {allocator}"
    processor = machine.get("cpu") or machine.get("processor")
    parts = [
        f"{processor} ({', '.join(instructions)})" if instructions else str(processor),
        f"{machine['cores']} cores",
        f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'}",
        machine["gpu"] or "**no GPU was measured**",
        f"torch {machine['torch']}",
        f"Python {machine['python']}",
        allocator,
        "load before the start " + ("not taken" if load is None else f"{load:.2f}"),
        str(machine["date"]),
    ]
    return f"Measured on: {'; '.join(parts)}."


def loss(figures: Figures) -> str:
    """Return the transfer loss against its straightforward form and its floor: a column for each case."""
    results = figures["results"]
    titles = [Case(r["rank"], r.get("basis", "own")).title for r in results]
    head = [f"{r['taps']}, {title}" if "taps" in r else title for r, title in zip(results, titles, strict=True)]
    rows = [[label, *(show(r) for r in results)] for label, show in _LOSS_ROWS.items()]
    sizes = figures["batch"] if isinstance(figures["batch"], Mapping) else {"": figures["batch"]}
    return f"Batch {', '.join(f'{name} {size}'.strip() for name, size in sizes.items())}.\n\n{grid(['', *head], rows)}"


def _straightforward(result: Figures) -> str:
    """Return its time, and whether it was measured on a part of the batch and scaled."""
    part, batch = result.get("straightforward_batch"), result.get("batch")
    return spread(result["straightforward"]) + (
        f", scaled from {part} of {batch} images" if part and part != batch else ""
    )


def _broken(result: Figures) -> str:
    key = "samples_with_broken_gradient"
    return f"{result.get(f'straightforward_{key}', '–')} / {result[f'ours_{key}']}"


def _against_target(result: Figures, key: str, form: str, *, least: bool = False) -> str:
    if result.get(key) is None:
        return "does not fit into memory"
    limit = result.get(f"target_{key}")
    return judged(result[key], form, at_least=limit) if least else judged(result[key], form, at_most=limit)


_LOSS_ROWS: dict[str, Callable[[Figures], str]] = {
    "svdistill, ms": lambda r: spread(r["ours"]),
    "floor, ms: Gram products of both networks' taps, one copy of the student's": lambda r: spread(r["floor"]),
    "straightforward, ms: full SVDs, autograd's derivative, dense relations": _straightforward,
    "times faster than straightforward": lambda r: _against_target(r, "times_faster", ".0f", least=True),
    "floors": lambda r: _against_target(r, "floors", ".1f"),
    "peak memory above the inputs, in units of the student's taps": lambda r: _against_target(
        r, "peak_over_taps", ".2f"
    ),
    "the same, straightforward": lambda r: number(r.get("straightforward_peak_over_taps")),
    "samples of the first tap whose gradient is not finite, straightforward / svdistill": _broken,
}


def decomposition(figures: Figures) -> str:
    """Return every solver on every shape of tap, and where the block iteration overtakes eigh."""
    parts = []
    if results := figures.get("results"):
        solvers = [key for key, value in results[0].items() if is_spread(value)]
        head = ["taps", "N × D", "batch", "k", "part", *(f"{s}, ms" for s in solvers), "auto is", "auto / best solver"]
        rows = [
            [
                r["taps"],
                f"{r['positions']} × {r['channels']}",
                str(r["batch"]),
                str(r["rank"]),
                r["part"],
                *(number(r[s]["median_ms"]) if s in r else "–" for s in solvers),
                r["auto_is"],
                judged(r["auto_over_best"], ".2f", at_most=figures["target_auto_over_best"], brief=True),
            ]
            for r in results
        ]
        worst = judged(figures["worst_auto_over_best"], ".2f", at_most=figures["target_auto_over_best"])
        parts += [f"Medians. `auto` / best solver, at its worst: {worst}.", grid(head, rows)]
    wins = figures["eigh_over_subspace"]
    sizes = list(next(iter(wins.values())))
    head = ["rank", *(f"m = {size}" for size in sizes)]
    rows = [[rank, *(f"{row[size]:.2f}" for size in sizes)] for rank, row in wins.items()]
    parts += ["eigh / block iteration, forward: above 1 the block iteration wins.", grid(head, rows)]
    return "\n\n".join(parts)


def pipeline(figures: Figures) -> str:
    """Return what is decoded, augmented, handed out and consumed, in images a second: a table for each."""
    headings = {
        "decoded": "### Decoded: photographs to 224 × 224",
        "augmented": "### Augmented and standardized: from uint8 in memory to float",
        "from_memory": "### A whole epoch from memory: shuffled, augmented, standardized",
        "consumed": "### Consumed by a training step",
    }
    parts = [f"Batch {figures['batch']} unless another is given; medians with quartiles."]
    for key, heading in headings.items():
        columns = list(figures[key][0])
        rows = [[_versus(column, row[column]) for column in columns] for row in figures[key]]
        if key == "consumed":
            columns.append("pipeline / step, times")
            rows = [[*cells, _brought(figures, row)] for cells, row in zip(rows, figures[key], strict=True)]
        parts += [heading, grid(columns, rows)]
    return "\n\n".join(parts)


def _brought(figures: Figures, step: Figures) -> str:
    """Return the pipeline's images a second over those that a step consumes; where that is below 1, it is marked.

    At 224 pixels files are decoded, by as many workers as were fastest, and then augmented; below they lie in memory.
    """

    def rates(row: Figures) -> list[float]:
        return [value["median_per_s"] for key, value in row.items() if key.startswith("svdistill")]

    size, device = step["pixels"], step["device"]
    augmented = [
        r for row in figures["augmented"] if (row["pixels"], row["device"]) == (size, device) for r in rates(row)
    ]
    if not augmented:
        return "–"
    seconds = 1 / augmented[0]
    if size == "224 × 224":
        seconds += 1 / max(r for row in figures["decoded"] for r in rates(row))
    times = 1 / (seconds * step["images/s"]["median_per_s"])
    return number(times) if times >= 1 else f"{number(times)} **too few**"


def _versus(column: str, value: Any) -> str:
    """Return a cell; where it says how many times faster something is, a value below 1 is marked."""
    if not column.startswith("times faster"):
        return cell(value)
    return number(value) if value >= 0.995 else f"{number(value)} **slower**"


def scaling(figures: Figures) -> str:
    """Return one process against two: a column for each width of the networks."""
    results = figures["results"]
    names = [key for key, value in results[0].items() if is_rate(value)]
    rows = [[f"{name}, images/s", *(spread(r[name]) for r in results)] for name in names]
    rows += [[label, *(show(r) for r in results)] for label, show in _SCALING_ROWS.items()]
    head = ["", *(f"VGG pair, width {r['width']:g}" for r in results)]
    return f"Global batch {figures['batch']}; float32; gloo on one machine.\n\n{grid(head, rows)}"


_SCALING_ROWS: dict[str, Callable[[Figures], str]] = {
    "two processes / one process with two threads": lambda r: _versus(
        "times faster", r["two_processes_over_two_threads"]
    ),
    "two processes / one process with one thread": lambda r: _versus(
        "times faster", r["two_processes_over_one_thread"]
    ),
    "efficiency: the last, by the number of processes": lambda r: f"{r['efficiency']:.0%}",
    "all-reduce of both gradients in one piece, ms": lambda r: f"{spread(r['all_reduce'])}",
    "its size": lambda r: f"{number(r['reduced_mb'])} MB",
    "its share of the step": lambda r: f"{r['all_reduce_share_of_step']:.1%}",
    "what two processes learned differs from what one did by": lambda r: f"{r['updates_differ_by']:.0e}",
}


def by_shape(figures: Figures, *, level: int = 3, batch: int | None = None) -> str:
    """Lay figures out by their shape.

    Times and rates become the rows of a table, single figures a list, a list of mappings a table with a row for each,
    and a mapping a part with its own heading. ``target_X`` beside ``X`` is the target for X: a lower bound where X
    counts how many times faster something is, else an upper bound.
    """
    own = figures.get("batch")
    batch = own if isinstance(own, int) else batch
    parts = [str(figures["note"])] if "note" in figures else []
    times = {key: value for key, value in figures.items() if is_spread(value)}
    rates = {key: value for key, value in figures.items() if is_rate(value)}
    if times:
        more = ["images/s"] if batch else []
        rows = [
            [label(key), *pair(value), *([number(1e3 * batch / value["median_ms"])] if batch else [])]
            for key, value in times.items()
        ]
        parts.append(grid(["", "median ms", "quartiles", *more], rows))
    if rates:
        rows = [[label(key), *pair(value)] for key, value in rates.items()]
        parts.append(grid(["", "images/s, median", "quartiles"], rows))
    singles = [line for key, value in figures.items() if (line := _single(key, value, figures))]
    if singles:
        parts.append("\n".join(singles))
    for key, value in figures.items():
        heading = f"{'#' * level} {label(key)}"
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            columns = list(dict.fromkeys(column for item in value for column in item))
            rows = [[cell(item.get(column)) for column in columns] for item in value]
            parts += [heading, grid([label(column) for column in columns], rows)]
        elif isinstance(value, Mapping) and not (is_spread(value) or is_rate(value) or is_target(value)):
            parts += [heading, by_shape(value, level=level + 1, batch=batch)]
    return "\n\n".join(parts)


def cell(value: Any) -> str:
    """Return any figure as it stands in a table."""
    if isinstance(value, Mapping):
        if is_target(value):
            return judged(value["value"], at_most=value.get("at_most"), at_least=value.get("at_least"))
        return spread(value)
    if value is None:
        return "–"
    return number(value) if isinstance(value, float) else str(value)


def label(key: str) -> str:
    """Return the name of a figure as one reads it."""
    return str(key).replace("_", " ")


def _single(key: str, value: Any, beside: Figures) -> str:
    """Return the line of a list for a single figure, nothing for any other."""
    if is_target(value):
        return f"- {label(key)}: {cell(value)}"
    if key.startswith("target_") or key == "note" or not isinstance(value, int | float | str):
        return ""
    limit = beside.get(f"target_{key}")
    if limit is None or isinstance(value, str):
        slower = " **slower**" if "times faster" in label(key) and not isinstance(value, str) and value < 1 else ""
        return f"- {label(key)}: {cell(value)}{slower}"
    least = any(word in key for word in ("faster", "speedup", "images"))
    return f"- {label(key)}: {judged(value, at_least=limit) if least else judged(value, at_most=limit)}"


_SECTIONS: dict[str, Callable[[Figures], str]] = {
    "loss": loss,
    "decomposition": decomposition,
    "pipeline": pipeline,
    "scaling": scaling,
    **dict.fromkeys(regimes.SECTIONS, regimes.table),
    **gpu_tables.SECTIONS,
}
# Sections made from the figures of several benchmarks, whose own sections say where they were measured.
_OF_SEVERAL: dict[str, Callable[[Mapping[str, Figures]], str]] = {
    "gains-labels-alone": partial(gains.table, beside=False),
    "gains-others-beside": partial(gains.table, beside=True),
}
# Sections whose tables show what there is to be measured.
_UNMEASURED: dict[str, Callable[[], str]] = {
    name: partial(made, gpu_tables.NOTHING) for name, made in gpu_tables.SECTIONS.items()
}
