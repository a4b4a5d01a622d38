"""Weights in fewer bits: what a file keeps, and what is read of it."""

import pytest
import torch
from torch import nn

from smalti.nn.stored import narrowed, round_weights, widened


def layers() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Embedding(5, 4), nn.BatchNorm2d(8))
    with torch.no_grad():
        module[1].weight[2] = 0  # a row without any scale
    return module


@pytest.mark.parametrize(("bits", "bound"), [("bfloat16", 1 / 256), ("int8", 1 / 254 + 1 / 500)])
def test_rounding_is_small_and_once(bits, bound):
    module, exact = layers(), {k: v.clone() for k, v in layers().state_dict().items()}
    round_weights(module, bits, ("2.",))
    state = {k: v.clone() for k, v in module.state_dict().items()}
    for name, tensor in state.items():
        if tensor.dim() < 2:
            assert torch.equal(tensor, exact[name]), name
        else:
            most = exact[name].abs().flatten(1).amax(1)  # of each row
            off = (tensor - exact[name]).abs().flatten(1).amax(1)
            assert 0 < off.max() and (off <= bound * most).all(), name
    file = narrowed(state, bits)
    assert {str(t.dtype)[6:] for k, t in file.items() if k.endswith("t")} >= {bits}
    again = widened(file, bits, "file")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_what_is_exact_stays():
    state = layers().state_dict()
    file = narrowed(state, "int8", ("0.",))
    assert torch.equal(file["0.weight"], state["0.weight"]) and "0.weight:scale" not in file
    assert file["1.weight"].dtype == torch.int8 and file["2.num_batches_tracked"].dim() == 0


@pytest.mark.parametrize(
    "changes", [{"1.weight:scale": torch.ones(4)}, {"1.weight": torch.ones(5, 4)}]
)
def test_scales_that_belong_to_no_weight(changes):
    file = narrowed(layers().state_dict(), "int8") | changes
    with pytest.raises(ValueError, match="file: 1.weight is .* with scales"):
        widened(file, "int8", "file")
