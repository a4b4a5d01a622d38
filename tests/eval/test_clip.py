import math

import numpy as np
import pytest
import torch

from smalti.eval import clip
from smalti.eval.clip import clip_score, clipscore, cmmd, cmmd_of_blocks, cosine


def test_cosine_and_scores_by_hand():
    images = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    texts = torch.tensor([[5.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    assert cosine(images, texts).tolist() == pytest.approx([1, -1, math.sqrt(0.5)])
    assert clip_score(images, texts) == pytest.approx(100 * math.sqrt(0.5) / 3)
    assert clipscore(images, texts) == pytest.approx(2.5 * (1 + math.sqrt(0.5)) / 3)
    assert clip_score(images, -images) == clipscore(images, -images) == 0
    with pytest.raises(ValueError, match=r"one text of its own, got \(3, 2\) and \(2, 2\)"):
        cosine(images, texts[:2])


def slow_cmmd(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = (z.double() / z.double().norm(dim=1, keepdim=True) for z in (x, y))
    kernel = [(-(torch.cdist(a, b) ** 2) / 200).exp().mean() for a, b in ((x, x), (y, y), (x, y))]
    return 1000 * (kernel[0] + kernel[1] - 2 * kernel[2]).item()


def test_cmmd_in_any_blocks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(23, 8, generator=generator)
    y = torch.randn(17, 8, generator=generator) + 0.5
    want = pytest.approx(slow_cmmd(x, y), rel=1e-9)
    assert cmmd(x, y) == want and cmmd(y, x) == want and cmmd(4 * x, y / 2) == want
    assert cmmd(x, x) == pytest.approx(0, abs=1e-12)
    monkeypatch.setattr(clip, "BLOCK", 5)
    assert cmmd(x, y) == want


def test_cmmd_of_blocks_is_that_of_the_samples_that_are_taken(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 8, generator=generator) for n in (23, 17))
    blocks = torch.arange(23) % 4
    monkeypatch.setattr(clip, "BLOCK", 5)
    value = cmmd_of_blocks(x, y, blocks)
    for times in ([1, 1, 1, 1], [1, 0, 1, 1], [2, 0, 1, 1]):
        taken = torch.cat([x[blocks == i] for i, n in enumerate(times) for _ in range(n)])
        assert value(np.array(times)) == pytest.approx(cmmd(taken, y), rel=1e-9)


@pytest.mark.parametrize("shape", [(4, 3), (0, 2)])
def test_cmmd_refuses(shape):
    with pytest.raises(ValueError, match="two sets of rows of one length"):
        cmmd(torch.ones(4, 2), torch.ones(shape))
