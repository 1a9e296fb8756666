"""What the doctor found, as tables for a terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from svdistill.names import printable
from svdistill.report.tables import count, percent, plain, plain_table, seconds, significant, titled

_SIGNS = {"wrong": ("wrong", "bold red"), "look": ("look at", "yellow"), "note": ("note", "cyan")}


def doctor_tables(found: Mapping[str, Any]) -> Group:
    """Show a diagnosis: images, teacher, taps, stages, cost, and last what stands out.

    Args:
        found: as ``jobs.doctor.Diagnosis.to_dict`` returns it.
    """
    parts: list[RenderableType] = [_facts("images", _images(found["images"]))]
    if found["teacher"] is not None:
        parts.append(_facts("teacher", _teacher(found["teacher"])))
    if found["taps"]:
        parts.append(_taps(found["taps"]))
    parts += [_stages(found["stages"]), _facts("cost", _cost(found["cost"])), _remarks(found["remarks"])]
    return Group(*parts)


def _facts(title: str, rows: Mapping[str, str]) -> Group:
    table = plain_table(header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, plain(value))
    return titled(title, table)


def _images(found: Mapping[str, Any]) -> dict[str, str]:
    channels, height, width = found["shape"]
    compared = "all" if found["looked_at"] == _all(found) else f"{count(found['looked_at'])} of {count(_all(found))}"
    rows = {
        "data set": f"{found['name']}, {found['classes']} classes, {height} × {width} × {channels}",
        "training, test": f"{count(found['train'])}, {count(found['test'])}",
    }
    if found["unlabelled"]:
        rows["without labels"] = count(found["unlabelled"])
    (few, fewest), (many, most) = found["fewest"], found["most"]
    rows["images a class"] = count(most) if fewest == most else f"{count(fewest)} ({few}) to {count(most)} ({many})"
    rows["compared by content"] = (
        f"{compared}: {count(found['in_both'])} test images also trained on, {count(found['twice'])} trained on twice, "
        f"{count(found['blank'])} blank"
    )
    return rows


def _all(found: Mapping[str, Any]) -> int:
    return int(found["train"] + found["test"] + found["unlabelled"])


def _teacher(found: Mapping[str, Any]) -> dict[str, str]:
    if found["file"] is None:
        return {"name": found["name"], "weights": "yet to be trained"}
    known = {True: "those of the images", False: "others", None: "not said by its file"}
    scale = {True: "the student's", False: "its own; images are converted", None: "not said by its file"}
    return {
        "name": found["name"],
        "accuracy": f"{percent(found['accuracy'])} on {count(found['measured'])} images"
        if found["accuracy"] is not None
        else "not measured: no images of its classes",
        "classes": f"{found['classes']}, {known[found['same_classes']]}",
        "mean and deviation": scale[found["same_scale"]],
    }


def _taps(found: Sequence[Mapping[str, Any]]) -> Group:
    table = plain_table()
    for name in ("student", "teacher", "dead", "energy kept", ""):
        table.add_column(name, justify="right" if name in ("dead", "energy kept") else "left")
    for tap in found:
        remarks = ["adapter"] * tap["adapted"] + [f"left out by {name}" for name in tap["left_out"]]
        table.add_row(
            plain(f"{tap['student']}, {_shape(tap['student_shape'])}"),
            plain(f"{tap['teacher']}, {_shape(tap['teacher_shape'])}"),
            percent(tap["dead"], digits=0),
            percent(tap["energy"], digits=0),
            ", ".join(remarks),
        )
    return titled("taps (dead channels and energy are the teacher's)", table)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _stages(found: Sequence[Mapping[str, Any]]) -> Group:
    several = len(found) > 1
    table = plain_table(header=several)
    table.add_column(no_wrap=True)
    for number, _ in enumerate(found, start=1):
        table.add_column(f"stage {number}", justify="right" if several else "left")
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "epochs, steps of each": lambda stage: f"{count(stage['epochs'])}, {count(stage['steps'])}",
        "steps tried": lambda stage: str(stage["tried"]),
        "main loss": lambda stage: (
            f"{_number(stage['first_loss'])} → {_number(stage['loss'])}" if stage["main"] else "–"
        ),
        "transfer loss": lambda stage: _number(stage["transfer"]),
        "transfer gradient / main gradient": lambda stage: _number(stage["ratio"]),
        "variables clipped": lambda stage: percent(stage["clipped"], digits=0),
        "transfer gradient let through": lambda stage: percent(stage["passed"], digits=0),
        "images set aside": lambda stage: percent(stage["set_aside"], digits=0),
        "a step": lambda stage: _short(stage["step_seconds"]),
        "an epoch": lambda stage: seconds(stage["epoch_seconds"]),
    }
    for name, cell in rows.items():
        cells = [cell(stage) for stage in found]
        if any(text != "–" for text in cells):
            table.add_row(name, *cells)
    return titled("a few steps", table)


def _number(value: float | None) -> str:
    return "–" if value is None else significant(value)


def _short(duration: float) -> str:
    return f"{1000 * duration:.3g} ms" if duration < 0.9995 else seconds(duration)


def _cost(found: Mapping[str, Any]) -> dict[str, str]:
    rows = {
        "computes on": f"{found['device']}, {found['precision']}",
        "time to the end": seconds(found["seconds"]),
    }
    if found["teacher_seconds"]:
        rows["before that, the teacher"] = seconds(found["teacher_seconds"])
    if found["memory"] is not None:
        rows["memory"] = f"{_bytes(found['memory'])} of {_bytes(found['memory_there'])}"
    rows["disk"] = f"{_bytes(found['disk'])}; {_bytes(found['disk_free'])} are free"
    return rows


def _bytes(value: int) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def _remarks(found: Sequence[Mapping[str, Any]]) -> Group:
    if not found:
        return Group(Text("nothing stands out", style="bold green"))
    table = Table.grid(padding=(0, 2))
    for remark in found:
        word, style = _SIGNS[remark["gravity"]]
        text = plain(remark["found"])
        if remark["advice"]:
            text.append(f"\n→ {printable(remark['advice'])}", style="dim")
        table.add_row(Text(word, style=style), text)
    return titled("what stands out", table)
