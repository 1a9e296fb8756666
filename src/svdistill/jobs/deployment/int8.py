"""An ONNX network in 8-bit integers, by onnxruntime's static quantization."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from svdistill.data import ImageSource
from svdistill.data.sets import spread
from svdistill.errors import ExportError, SvdistillError, one_line
from svdistill.jobs.deployment.formats import INPUT, Artifact, Runner, library, onnx_artifact, quiet, with_metadata

_BATCH_SIZE = 32


class _Calibration:
    """Hands onnxruntime the images of a set, as its ``CalibrationDataReader`` would."""

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


def quantize(
    artifact: Artifact, images: ImageSource, prepare: Runner, *, count: int, told: Mapping[str, str]
) -> Artifact:
    """Write weights and activations of an ONNX network in 8 bits, their ranges measured on real images.

    Weights are signed, of 7 bits, with a scale for each output channel; activations are unsigned, with a scale for each
    map, between the smallest and the largest value that the images give.

    Args:
        artifact: the network in 32 bits.
        images: those to measure with, which should not be those that the result is judged by.
        prepare: pixels (B, C, H, W), uint8, to what the network takes.
        count: how many of the images to take, evenly over all.
        told: what the file says of itself.

    Raises:
        ExportError: onnxruntime cannot quantize this network.
    """
    onnx, quantization = library("onnx"), library("onnxruntime.quantization")
    shapes = library("onnxruntime.quantization.shape_inference")
    index = spread(len(images), count).split(_BATCH_SIZE)
    reader = _Calibration(prepare(pixels) for pixels in images.batches(index))
    with TemporaryDirectory() as folder, quiet():
        plain, ready, made = (str(Path(folder) / f"{name}.onnx") for name in ("plain", "ready", "int8"))
        Path(plain).write_bytes(artifact.content)
        try:
            # Batch norm goes into the convolutions before, where it is not yet: between integers it would stay a float.
            shapes.quant_pre_process(plain, ready, skip_symbolic_shape=True)
            quantization.quantize_static(
                ready,
                made,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                # Weights of 7 bits: processors without VNNI add two products in 16 bits, where 8 overflow in silence.
                reduce_range=True,
            )
        except SvdistillError:
            raise
        except Exception as error:  # onnxruntime raises bare exceptions of many kinds
            raise ExportError(
                f"onnxruntime cannot quantize this network ({one_line(error)}); export it without --int8"
            ) from error
        return onnx_artifact(with_metadata(onnx.load(made), {**told, "weights": "int8"}))
