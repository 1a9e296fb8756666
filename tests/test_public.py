"""What people type first: the names that the package promises, and how they are reached."""

import json
import subprocess
import sys

import pytest

import svdistill

NAMES = {
    "DistillOutput",
    "Distiller",
    "Run",
    "SVDLoss",
    "Student",
    "TeacherCache",
    "__version__",
    "backward",
    "combine",
    "compare",
    "data",
    "evaluate",
    "export",
    "gradients",
    "jobs",
    "joint_loss",
    "linalg",
    "load",
    "losses",
    "nets",
    "predict",
    "pull",
    "push",
    "recipes",
    "report",
    "svd_loss",
    "sweep",
    "teacher_cache",
    "train",
    "training",
}


def fresh(program):
    """Run a program in a new interpreter and return what it prints as JSON."""
    done = subprocess.run([sys.executable, "-c", f"import json\n{program}"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_names_are_those_that_were_promised():
    """No public name comes or goes unnoticed."""
    assert set(svdistill.__all__) == NAMES
    assert set(svdistill.__all__) <= set(dir(svdistill))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("svdistill.losses.SVDLoss.__name__", "SVDLoss"),
        ("svdistill.train.__name__", "train"),
        ("(svdistill.training, svdistill.train)[1].__name__", "train"),
        ("(svdistill.train, svdistill.training)[1].__name__", "svdistill.training"),
        ("svdistill.svd_loss is svdistill.losses.svd_loss", True),
        ("svdistill.load is svdistill.nets.load", True),
    ],
)
def test_names_are_reached_in_a_fresh_interpreter(expression, expected):
    """One import is enough, whatever is reached first."""
    assert fresh(f"import svdistill\nprint(json.dumps({expression}))") == expected


def test_every_name_is_there():
    """Each promised name leads to something, in a fresh interpreter."""
    assert (
        fresh("import svdistill\nprint(json.dumps([n for n in svdistill.__all__ if getattr(svdistill, n) is None]))")
        == []
    )


def test_a_misspelt_name_is_an_attribute_error():
    """As in any module."""
    with pytest.raises(AttributeError, match="has no attribute 'svd_los'"):
        _ = svdistill.svd_los


def test_the_package_alone_imports_nothing_heavy():
    """The command line starts without torch."""
    assert (
        fresh("import sys, svdistill\nprint(json.dumps(sorted({'torch', 'numpy', 'yaml'} & set(sys.modules))))") == []
    )


def test_a_training_step_imports_no_compiler():
    """Torch's compiler takes seconds to import, so only compiling does; figures and pictures are not needed either."""
    program = "import sys, svdistill.training, svdistill.losses\nprint(json.dumps(sorted({%s} & set(sys.modules))))"
    assert fresh(program % "'torch._dynamo', 'torch._inductor', 'matplotlib', 'PIL', 'rich'") == []
