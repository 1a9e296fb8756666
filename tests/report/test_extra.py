"""Without matplotlib, an extra, everything works that draws nothing, and what draws says in a line what is missing."""

import json
import subprocess
import sys

import pytest

from svdistill import sweep
from svdistill.cli import main
from svdistill.errors import OptionError

ADVICE = "needs matplotlib; install it with: pip install 'svdistill[report]'"


@pytest.fixture
def without(monkeypatch):
    """Have no matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_tables_need_none():
    """The modules that commands without figures import work where matplotlib cannot be imported."""
    program = (
        "import json, sys\nsys.modules['matplotlib'] = None\n"
        "import svdistill.cli.app, svdistill.cli.progress, svdistill.cli.compare_progress, svdistill.sweep\n"
        "from svdistill.report import comparison, datasets, demo, deployment, doctor, networks, tables\n"
        "print(json.dumps(sorted(name for name in sys.modules if name.startswith('svdistill.report.'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "svdistill.report.comparison" in json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "what"), [(["report", "runs"], "the report"), (["data", "show", "digits"], "the sheet")]
)
def test_what_draws_is_refused(without, monkeypatch, capsys, arguments, what):
    """One line and status 2, before anything is looked for."""
    monkeypatch.setattr(sys, "argv", ["svdistill", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"{what} {ADVICE}" in capsys.readouterr().err.replace("\n", " ")


def test_demo_says_so_first(without, monkeypatch, capsys):
    """The demo needs no figure, and says before it trains that there will be none."""

    def plan(**settings):
        raise OptionError("the end of this test")

    monkeypatch.setattr(sweep, "plan_demo", plan)
    monkeypatch.setattr(sys, "argv", ["svdistill", "demo"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.index(f"no figure will be drawn: it {ADVICE}") < said.index("the end of this test")
