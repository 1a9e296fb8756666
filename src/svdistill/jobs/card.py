"""A model card: what a trained network is, how good it is, and how it is used, from the records of its run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from svdistill.names import printable
from svdistill.records import MACHINE_KEYS

_MOST_CLASSES = 50
# Where the files of whoever trained lie is nobody else's business, nor would it help them.
_FOLDERS, _FILES = ("root",), ("checkpoint",)


def model_card(
    repo: str,
    about: Mapping[str, Any],
    *,
    summary: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> str:
    """Write the ``README.md`` of a network on the hub.

    Args:
        repo: ``OWNER/NAME``.
        about: ``network``, ``classes``, ``channels``, ``image_size``, ``mean``, ``std`` and, where known, ``data``.
        summary: of its run, or None.
        recipe: of its run, or None.
        environment: of its run, or None.

    Returns:
        Markdown, under a header in YAML that the hub reads.
    """
    name = repo.rpartition("/")[2]
    header = yaml.safe_dump(_header(name, about, summary), sort_keys=False, allow_unicode=True)
    rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in _rows(about, summary, recipe, environment))
    parts = [f"---\n{header}---\n\n# {_cell(name)}", f"| | |\n|---|---|\n{rows}", _use(repo, name)]
    if recipe is not None:
        text = yaml.safe_dump(_without_places(recipe), sort_keys=False, allow_unicode=True)
        parts.append(f"## Recipe\n\n```yaml\n{text}```")
    return "\n\n".join(parts) + "\n"


def _header(name: str, about: Mapping[str, Any], summary: Mapping[str, Any] | None) -> dict[str, Any]:
    header: dict[str, Any] = {
        "library_name": "svdistill",
        "pipeline_tag": "image-classification",
        "tags": ["svdistill", "knowledge-distillation"],
    }
    if summary is None or "data" not in about:
        return header
    measured = {"type": "accuracy", "value": round(summary["accuracy"], 4), "name": _accuracy(summary)}
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"type": about["data"], "name": about["data"]},
        "metrics": [measured],
    }
    return {**header, "model-index": [{"name": name, "results": [result]}]}


def _rows(
    about: Mapping[str, Any],
    summary: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
    environment: Mapping[str, Any] | None,
) -> Iterator[tuple[str, str]]:
    yield "network", f"`{about['network']}`"
    if summary is not None:
        yield _accuracy(summary), f"{100 * summary['accuracy']:.2f} %"
        yield "parameters", f"{summary['parameters']:,}"
        yield "MFLOPs an image", f"{summary['flops'] / 1e6:.2f}"
        yield "trained by", f"`{summary['recipe']}`, method {summary['method']}, seed {summary['seed']}"
    if recipe is not None and recipe.get("teacher"):
        yield "teacher", f"`{_teacher(recipe['teacher'])}`"
    if "data" in about:
        yield "data", str(about["data"])
    yield "classes", _listed(about["classes"])
    size, channels = about["image_size"], about["channels"]
    yield "images", f"{'grey' if channels == 1 else f'{channels} channels'}, {size} × {size}"
    yield "mean, deviation", f"{_numbers(about['mean'])}; {_numbers(about['std'])} (white is 1)"
    if environment is not None:
        yield "made with", f"svdistill {environment.get('svdistill')}, torch {environment.get('torch')}"


def _teacher(settings: Mapping[str, Any]) -> str:
    """Return what a teacher is called: its recipe, its network, or the name of its file."""
    outside = settings.get("model")
    named = settings.get("recipe") or (outside and outside["name"])
    return str(named or PurePath(str(settings.get("checkpoint"))).name)


def _accuracy(summary: Mapping[str, Any]) -> str:
    return f"{summary.get('measured_on', 'test')} accuracy"


def _use(repo: str, name: str) -> str:
    return f"""## Use

```
pip install svdistill huggingface_hub
svdistill pull {repo}
svdistill predict {name}/student.safetensors PICTURES
```

```python
import svdistill

student = svdistill.Student.load(svdistill.pull("{repo}"))
logits = student.network(student.transform("picture.png")[None])
print(student.classes[logits.argmax()])
```"""


def _listed(classes: Sequence[str]) -> str:
    rest = len(classes) - _MOST_CLASSES
    return f"{len(classes)}: {', '.join(classes[:_MOST_CLASSES])}{f' and {rest} more' if rest > 0 else ''}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _cell(text: str) -> str:
    """Return a text for a cell of a table in Markdown, where a bar would end it and a tag would be one."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def _without_places(settings: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Return the settings of a recipe without what belongs to one machine alone."""
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if f"{inside}{key}" in MACHINE_KEYS or key in _FOLDERS:
            continue
        if key in _FILES and value is not None:
            kept[key] = PurePath(str(value)).name
        else:
            kept[key] = _without_places(value, f"{inside}{key}.") if isinstance(value, Mapping) else value
    return kept
