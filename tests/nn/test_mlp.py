import pytest
import torch

from smalti.nn import mlp


@pytest.mark.parametrize("shape", [(7, 12), (3, 5, 12), (1, 12)])
def test_rows_in_parts_are_the_rows_at_once(monkeypatch, shape):
    monkeypatch.setattr(mlp, "ROWS", 4)
    torch.manual_seed(0)
    layer, x = mlp.MLP(12, 20), torch.randn(shape)
    sizes = []
    layer.w1.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0].flatten(0, -2)))
    )
    whole = layer(x)
    with torch.no_grad():
        parts = layer(x)
    rows = x.flatten(0, -2).shape[0]
    assert sizes == [rows, *(min(4, rows - i) for i in range(0, rows, 4))]
    torch.testing.assert_close(parts, whole.detach(), rtol=0, atol=1e-6)
