"""Products in full float32, whatever the program allows elsewhere."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from svdistill.linalg.precision import full_float32
from svdistill.linalg.rbf import rbf_distance
from svdistill.linalg.svd import decompose


@pytest.fixture(params=["highest", "high", "medium"])
def allowed(request):
    """Let the program allow less, and put it back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def test_is_put_back(allowed):
    """Inside it is the highest, outside what it was, after an error too."""
    with full_float32(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(ValueError, match="inside"), full_float32(torch.device("cpu")):
        raise ValueError("inside")
    assert torch.get_float32_matmul_precision() == allowed


def test_products_of_the_loss(allowed):
    """Every product of decomposition and distance, forward and backward, sees the highest precision."""
    seen = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "bmm" in func.overloadpacket.__name__:
                seen.add(torch.get_float32_matmul_precision())
            return func(*args, **(kwargs or {}))

    x = torch.rand(3, 20, 30, requires_grad=True)
    with Watch():
        rows = decompose(x, 2).rows
        rbf_distance([rows, rows], [torch.rand(3, 2, 20)] * 2).backward()
    assert seen == {"highest"}
    assert torch.get_float32_matmul_precision() == allowed
