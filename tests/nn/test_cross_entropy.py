"""Cross-entropy whose gradient takes the place of what it was computed from."""

import pytest
import torch
from torch.nn import functional as F

from smalti.nn.cross_entropy import cross_entropy


def rows(count: int = 6, vocab: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(count, vocab, dtype=torch.float64) * 4
    return logits.requires_grad_(), torch.arange(count) % vocab


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_torchs(smoothing):
    logits, targets = rows()
    weights = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    expected = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    found = cross_entropy(logits, targets, smoothing)
    torch.testing.assert_close(found, expected)
    right = torch.autograd.grad(expected, logits, weights)
    torch.testing.assert_close(torch.autograd.grad(found, logits, weights), right)


def test_logits_stay_as_they_were():
    logits, targets = rows()
    before = logits.detach().clone()
    cross_entropy(logits, targets).sum().backward()
    assert torch.equal(logits.detach(), before)


def test_a_second_gradient_of_the_same_pass_is_refused():
    """It would be computed from what the first has written over."""
    logits, targets = rows()
    loss = cross_entropy(logits, targets).sum()
    torch.autograd.grad(loss, logits, retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        torch.autograd.grad(loss, logits)


def test_the_gradient_is_written_over_the_log_probabilities():
    logits, targets = rows()
    kept = list[torch.Tensor]()

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = cross_entropy(logits, targets).sum()
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad.data_ptr() in {tensor.data_ptr() for tensor in kept}
