"""A trained network in the formats of other programs, each read back from the bytes that are to be written."""

import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from svdistill import nets
from svdistill.atomic import digest
from svdistill.errors import ExportError, OptionError, first_cause, nearest, one_line
from svdistill.jobs.student import Student
from svdistill.nets.outputs import find_logits
from svdistill.version import __version__

Format = Literal["onnx", "torch-export", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: Mapping[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
INPUT, OUTPUT = "images", "logits"
# The file within an exported program that holds what the metadata of an ONNX file hold.
ABOUT = "svdistill.json"
# Present in each export, so that a file of something else is told from it.
MARK = "svdistill"
_EXTRA = "pip install 'svdistill[export]'"

Runner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Artifact:
    """A network as it is to be written.

    Attributes:
        content: of the file.
        run: images as the file takes them to logits (B, classes), by `runtime` from `content`.
        runtime: what reads it.
    """

    content: bytes
    run: Runner
    runtime: str


class Deployed(nn.Module):
    """A network that gives logits alone, with its preprocessing inside or outside.

    Args:
        student: the network and its statistics.
        inside: whether it takes uint8 pixels, instead of standardized images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, student: Student, *, inside: bool) -> None:
        super().__init__()
        self.network = student.network
        self._inside = inside
        self.register_buffer("mean", torch.tensor(student.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(student.std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W)."""
        prepared = (images.float() / 255 - self.mean) / self.std if self._inside else images
        return find_logits(self.network(prepared)).float()


def check_format(name: str, *, int8: bool, inside: bool) -> Format:
    """Return the format of a name, once it offers what is asked for and has its libraries.

    Raises:
        OptionError: it does not.
    """
    kind = next((one for one in FORMATS if one == name), None)
    if kind is None:
        raise OptionError(f"no format is called {name!r}{nearest(name, FORMATS)}")
    if int8 and name != "onnx":
        raise OptionError(f"int8 is made of an ONNX file, not of {name}; take --to onnx")
    if inside and name == "safetensors":
        raise OptionError(
            "a safetensors file holds weights, no graph for preprocessing; take --to onnx or torch-export"
        )
    if name == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            library(module)
    return kind


def library(name: str) -> ModuleType:
    """Import a library that export needs; OptionError where it is missing or broken."""
    try:
        return import_module(name)
    except ImportError as error:
        raise OptionError(
            f"an export to ONNX needs {name} ({one_line(error)}); install what it takes with: {_EXTRA}"
        ) from error


def about(student: Student, *, inside: bool) -> dict[str, str]:
    """Return what an export says of itself, as strings: ``classes``, ``mean``, ``std`` and numbers are JSON.

    ``student_sha256`` is the digest of the file that it was made from.
    """
    told: dict[str, str] = {key: student.spec[key] for key in ("recipe", "data", "task") if key in student.spec}
    return {
        MARK: __version__,
        "network": student.name,
        **told,
        "classes": json.dumps(student.classes),
        "channels": json.dumps(student.channels),
        "image_size": json.dumps(student.image_size),
        "mean": json.dumps(student.mean),
        "std": json.dumps(student.std),
        "background": student.background,
        "preprocessing": "inside" if inside else "outside",
        "student_sha256": digest(student.file),
    }


def make(student: Student, kind: Format, *, inside: bool) -> Artifact:
    """Export a network, its batch size left open.

    Args:
        student: the network.
        kind: the format.
        inside: whether the preprocessing goes into the graph: then it takes uint8 pixels (B, C, H, W).

    Raises:
        ExportError: the network does something that the format has no form for.
    """
    if kind == "safetensors":
        return _safetensors(student)
    program = _program(Deployed(student, inside=inside).eval(), student, inside=inside)
    told = about(student, inside=inside)
    return _torch_export(program, told) if kind == "torch-export" else _onnx(program, told, student.name)


def onnx_artifact(content: bytes) -> Artifact:
    """Read an ONNX file back by onnxruntime, on the CPU, with as many threads as torch has."""
    ort = library("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return Artifact(content, run, "onnxruntime")


def with_metadata(model: Any, told: Mapping[str, str]) -> bytes:
    """Return the bytes of an ONNX model that says `told` of itself."""
    library("onnx").helper.set_model_props(model, dict(told))
    content: bytes = model.SerializeToString()
    return content


def is_export(path: Path, kind: Format) -> bool:
    """Tell whether a file is an export of this kind that svdistill has written."""
    try:
        if kind == "onnx":
            model = library("onnx").load(path, load_external_data=False)
            return any(entry.key == MARK for entry in model.metadata_props)
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"/{ABOUT}") for name in archive.namelist())
    except OptionError:
        raise
    except Exception:  # a file of something else makes a reader fail in any way
        return False


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's exporter from writing pages; what goes wrong is told by the error that it raises."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # It prints the graph in which it got stuck.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _program(module: nn.Module, student: Student, *, inside: bool) -> torch.export.ExportedProgram:
    batch = torch.zeros(2, *student.shape, dtype=torch.uint8 if inside else torch.float32)
    try:
        with quiet():
            return torch.export.export(
                module, (batch,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
            )
    except Exception as error:  # torch raises dozens of kinds, most of them its own and private
        raise ExportError(
            f"torch.export cannot follow {student.name} ({_first_line(error)}); a network that decides by its values, "
            "or by the size of its batch, has no graph"
        ) from error


def _torch_export(program: torch.export.ExportedProgram, told: Mapping[str, str]) -> Artifact:
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(dict(told))})
        content = buffer.getvalue()
        module = torch.export.load(io.BytesIO(content)).module()

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            result: Tensor = module(images)
        return result

    return Artifact(content, run, "torch.export")


def _onnx(program: torch.export.ExportedProgram, told: Mapping[str, str], name: str) -> Artifact:
    try:
        with quiet():
            made = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False, optimize=True
            )
    except Exception as error:  # as above
        raise ExportError(_no_operator(error, name)) from error
    assert made is not None
    return onnx_artifact(with_metadata(made.model_proto, told))


def _no_operator(error: BaseException, name: str) -> str:
    """Say what ONNX lacks, which torch says at the end of a chain of errors."""
    cause: BaseException | None = error
    while cause is not None:
        if missing := re.search(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", str(cause)):
            operator = missing[1].replace("aten.", "torch.").replace("._", ".")
            return f"ONNX has no operator for {operator}, which {name} uses; take --to torch-export"
        cause = cause.__cause__
    return f"{name} cannot be written as ONNX ({first_cause(error)}); take --to torch-export"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _safetensors(student: Student) -> Artifact:
    content = student.file.read_bytes()
    with TemporaryDirectory() as folder:
        copy = Path(folder) / student.file.name
        copy.write_bytes(content)
        network = nets.load(copy, allow_code=True)  # the same bytes as the student, which had leave if it is code

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return find_logits(network(images)).float()

    return Artifact(content, run, "PyTorch, copy")
