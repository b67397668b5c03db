"""Multiply-accumulates counted from the graph that really runs, attention included.

The unit is the GMAC, 1e9 multiply-accumulates (2 FLOPs each), which most vision papers call "GFLOPs".
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

# What `shapes_alone` raises where control flow depends on values.
READS_VALUES = (DataDependentOutputException, DynamicOutputShapeException)


@dataclass(frozen=True)
class Cost:
    """What one image costs. `tiles` go through the backbone, `tokens` (spatial and prefix) come out of the encoder."""

    gmac: float
    params: int
    tiles: int
    tokens: int


def count_gmac(call: Callable[..., Any], *inputs: Any, weights: nn.Module | None = None) -> float:
    """GMAC of `call(*inputs)`: every matmul, einsum, convolution and attention product, at any depth.

    The graph runs on shapes alone, so that a large model costs seconds and no memory; a call whose control flow reads
    values runs for real. Element-wise work (activations, norms, resizing) is not counted, as usual. `weights` is the
    module whose weights `call` reads where it is none itself: knowing it saves time, and changes no count.
    """
    try:
        with shapes_alone(call, *inputs, weights=weights) as shape:
            return _count(shape)
    except READS_VALUES:
        return _count(lambda: call(*inputs))


class _Reads(nn.Module):
    """A call, and the module whose weights it reads."""

    def __init__(self, call: Callable[..., Any], weights: nn.Module | None) -> None:
        super().__init__()
        self.weights = call if isinstance(call, nn.Module) else weights
        self.call = (call,)  # in a tuple, so that it is no second child

    def forward(self, *inputs: Any) -> Any:
        return self.call[0](*inputs)


@contextlib.contextmanager
def shapes_alone(
    call: Callable[..., Any], *inputs: Any, weights: nn.Module | None = None
) -> Iterator[Callable[[], Any]]:
    """A function that gives what `call(*inputs)` gives, of the right shape but not computed, or raises one of
    READS_VALUES. `weights` as in `count_gmac`: real ones would be converted by every operation that reads them.

    Some models of transformers remember tensors from call to call (DINOv3 its patch coordinates) unless torch.compile
    traces them: they must not remember these.
    """
    pytorch_utils = sys.modules.get("transformers.pytorch_utils")
    with contextlib.ExitStack() as stack:
        if pytorch_utils is not None:
            stack.enter_context(mock.patch.object(pytorch_utils, "is_torchdynamo_compiling", return_value=True))
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        reads = _Reads(call, weights)
        state = dict((*reads.named_parameters(), *reads.named_buffers()))
        shapes = tree_map(lambda x: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x, (state, inputs))
        yield lambda: torch.func.functional_call(reads, *shapes)


def _count(call: Callable[[], Any]) -> float:
    vectors = {
        torch.ops.aten.mv: lambda a, b, **_: 2 * math.prod(a),
        torch.ops.aten.addmv: lambda bias, a, b, **_: 2 * math.prod(a),
        torch.ops.aten.dot: lambda a, b, **_: 2 * math.prod(a),
    }
    counter = FlopCounterMode(display=False, custom_mapping=vectors)
    with torch.no_grad(), _plain_kernels(), counter:
        call()
    return counter.get_total_flops() / 2e9


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Switch off the fused kernels that torch's counter does not see.

    On the CPU scaled_dot_product_attention counts as nothing (ViT-B/16 would come out as 16.85 instead of 17.56), and
    so do the fast path of nn.TransformerEncoderLayer and the oneDNN recurrent layers.
    """
    fast_path, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.backends.mkldnn.enabled = onednn
