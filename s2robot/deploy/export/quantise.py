"""Other precisions of an encoder's graph: int8 calibrated on recorded frames, float16 for GPUs.

Dims: h w frame (px).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8


class _Frames:
    """What onnxruntime's calibration reads: one input after the other, None at the end."""

    def __init__(self, frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> None:
        self._feeds = iter([{"image": frame[None]} for frame in frames])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input."""
        return next(self._feeds, None)


def quantise_int8(source: Path, path: Path, frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> None:
    """Static quantisation (arXiv 1712.05877): weights per output channel, activations by the range that they take on
    `frames`. Only products with weights become integers: attention, norms and the resize stay in float32.

    Weights have 7 bits: sums of two products with 8 overflow the 16 bits that processors without VNNI have for them.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            _Frames(frames),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=weighted_products(prepared),
        )


def convert_float16(source: Path, path: Path) -> None:
    """Everything in float16 but the input image and the outputs."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx.save(model, path)


def weighted_products(path: Path) -> list[str]:
    """Names of the matrix products and convolutions whose second factor is a weight of the backbone."""
    import onnx

    model: Any = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    # The matrices of resizing are constants too: they come before the backbone's first convolution, or pool its maps.
    return [node.name for node in products if node.input[1] in weights and not _resizes(node.input[1])]


def _resizes(weight: str) -> bool:
    return any(part in weight for part in ("resizes.", "pools.", "last."))
