"""Links as GitHub follows them become links as the site has them."""

from pathlib import Path

import pytest
from manual.links import for_site

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/start.md", "[a](data.md#augmentation)", "[a](data.md#augmentation)"),
        (
            "docs/start.md",
            "see [data.md](data.md#x) [docs/data.md](data.md)",
            "see [Data](data.md#x) [Data](data.md)",
        ),
        ("docs/reference/data.md", "[a](../data.md) [b](nets.md)", "[a](../data.md) [b](nets.md)"),
        ("docs/start.md", "[a](#here) [b](https://host/x.md)", "[a](#here) [b](https://host/x.md)"),
        ("docs/start.md", "[`a`](../examples/ddp.py)", "[`a`](files/examples/ddp.py)"),
        ("docs/start.md", "[a](../CONTRIBUTING.md#add-a-loss)", "[a](contributing.md#add-a-loss)"),
        ("docs/start.md", "[a](../README.md) [b](../examples) [c](../gone.py)", "[a](index.md) b c"),
        ("docs/notebooks/own.md", "[a](../data.md) ![b](own-1.png)", "[a](../data.md) ![b](own-1.png)"),
        ("docs/method.md", "[a](notebooks/digits.ipynb)", "[a](notebooks/digits.md)"),
        ("docs/notebooks/own.md", "[a](../../examples/ddp.py)", "[a](../files/examples/ddp.py)"),
        ("README.md", "![a](docs/demo.png) [b](docs/start.md)", "![a](demo.png) [b](start.md)"),
        ("README.md", "`[a](../src)` [b](LICENSE)", "`[a](../src)` [b](files/LICENSE)"),
        (
            "README.md",
            "```\n[a](docs/start.md)\n```\n[a](docs/start.md)",
            "```\n[a](docs/start.md)\n```\n[a](start.md)",
        ),
    ],
)
def test_targets(page, text, expected):
    """To another page, to a copy of a file that is not a page, or else only words; code stays."""
    assert for_site(text, page, ROOT, lambda path: None) == expected


def test_copies():
    """What has to be copied is told."""
    copied = []
    for_site("[a](../examples/ddp.py) [b](data.md) [c](../examples)", "docs/loops.md", ROOT, copied.append)
    assert copied == ["examples/ddp.py"]
