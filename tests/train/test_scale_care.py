"""Care of one codebook that serves several scales: start, restart, meters, advice."""

import pytest
import torch

from builders import build
from smalti.tokenizers.quantize.multiscale import MultiScaleQuantizer, pyramid
from smalti.train.codebook_care import CodebookCare, CodebookConfig

GRIDS = pyramid(1, 2, 4)


def setup(vocab: int = 24, **config) -> tuple[MultiScaleQuantizer, CodebookCare]:
    quantizer = build(lambda v: MultiScaleQuantizer(GRIDS, v, 3), vocab)
    return quantizer, CodebookCare(quantizer, CodebookConfig(**config), grids=GRIDS)


def latents(count: int, seed: int = 0) -> torch.Tensor:
    """Different means, quarters and cells, so that every scale has something to code."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((1, 1, 3.0), (2, 2, 1.0), (4, 4, 0.3))
    parts = [s * torch.randn(count, 3, h, w, generator=generator) for h, w, s in sizes]
    return sum(p.repeat_interleave(4 // len(p[0, 0]), 2).repeat_interleave(4 // len(p[0, 0]), 3)
               for p in parts)  # fmt: skip


def codes_of(*scales: list[int]) -> torch.Tensor:
    """Codes (1, 21): each scale repeats its own."""
    sizes = (1, 4, 16)
    return torch.tensor([sum(((s * n)[:n] for s, n in zip(scales, sizes, strict=True)), [])])


@pytest.mark.parametrize("vocab", [24, 25, 3, 2])
def test_every_scale_gets_its_share_of_the_centres(vocab):
    quantizer, care = setup(vocab, samples=32)
    z = latents(100)
    care.collect(z)
    care.start(quantizer, 0)
    kept = care.pool[-int(care.filled) :]
    bounds = [vocab * k // 3 for k in range(4)]
    weight = quantizer.embedding.weight.detach()
    for k, rows in enumerate(quantizer.compared(kept)):
        own = weight[bounds[k] : bounds[k + 1]]
        assert len(own.unique(dim=0)) == bounds[k + 1] - bounds[k]
        # centres of this scale's rows: a few of them explain much of what the scale sees
        left = torch.cdist(rows, weight).amin(1).square().mean()
        assert left < (0.6 if vocab > 3 else 1.01) * rows.square().sum(1).mean()
        assert (torch.cdist(own, rows).amin(1) < 2).all()
    assert len(weight.unique(dim=0)) == vocab


def test_the_start_is_a_function_of_the_state():
    quantizer, care = setup(samples=8)
    care.collect(latents(40))
    other, again = setup(samples=8)
    again.load_state_dict(care.state_dict())
    care.start(quantizer, 3)
    with torch.no_grad():
        other.embedding.weight.normal_()
    again.start(other, 3)
    assert torch.equal(quantizer.embedding.weight, other.embedding.weight)


def test_meters_of_each_scale_and_of_all():
    _, care = setup(kmeans=False)
    for _ in range(100):
        care.observe(codes_of([0], [0, 1], [0, 1, 2, 3]))
    meters = {name: value.item() for name, value in care.meters().items()}
    assert meters["usage"] == pytest.approx(4 / 24)
    shares = [meters[f"usage_{name}"] for name in care.names]
    assert shares == pytest.approx([1 / 24, 2 / 24, 4 / 24])
    spread = [meters[f"perplexity_{name}"] for name in care.names]
    assert spread == pytest.approx([1, 2, 4], rel=1e-5)
    counts = torch.tensor([1 + 2 + 4, 2 + 4, 4, 4.0]) / 21
    assert meters["perplexity"] == pytest.approx(torch.special.entr(counts).sum().exp().item())


def worn(share: float, steps: int = 100) -> tuple[MultiScaleQuantizer, CodebookCare]:
    """All codes are in use, but the first scale has one and the second six of them."""
    quantizer, care = setup(kmeans=False, patience=5, share=share)
    for i in range(steps):
        fine = [(16 * i + j) % 24 for j in range(16)]
        care.observe(codes_of([0], [i % 6], fine))
    return quantizer, care


def test_a_scale_that_uses_less_than_its_share_takes_over_the_least_used_codes():
    quantizer, care = worn(share=0.3)  # 7 of 24
    care.counts[2] = 100 + torch.arange(24.0)  # 1 ... 6 are the least used but for code 0
    care.counts[:2] = 0
    z = latents(9)
    rows = quantizer.compared(z)[0]
    before = quantizer.embedding.weight.detach().clone()
    care.restart(quantizer, z, step=10)
    after = quantizer.embedding.weight.detach()
    moved = (after != before).any(1)
    assert moved.nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6]
    assert torch.cdist(after[moved], rows).amin(1).max() < 1e-6, "onto rows of the first scale"
    assert len(after[moved].unique(dim=0)) == 6
    usage = care.meters()["usage_1x1"].item()
    assert usage == pytest.approx(1 / 24), "moved is not used"
    care.observe(codes_of([0], [0], list(range(16))))
    care.restart(quantizer, z, step=20)
    settled = (quantizer.embedding.weight.detach() == after).all(1)
    assert settled[moved].all(), "they are given time"


def test_share_zero_moves_dead_codes_alone():
    quantizer, care = worn(share=0.0)
    before = quantizer.embedding.weight.detach().clone()
    care.restart(quantizer, latents(9), step=10)
    assert torch.equal(quantizer.embedding.weight, before)
    care.age[:, 20:] = 6
    care.restart(quantizer, latents(9), step=10)
    moved = (quantizer.embedding.weight != before).any(1)
    assert moved.nonzero().flatten().tolist() == [20, 21, 22, 23]


def test_dead_codes_go_to_the_scales_that_use_the_fewest():
    went = torch.zeros(3)
    for seed in range(40):
        quantizer, care = worn(share=0.0)
        care.seed = 1000 * seed
        care.age[:, 20:] = 6
        z = latents(30, seed)
        parts = quantizer.compared(z)
        care.restart(quantizer, z, step=10)
        for row in quantizer.embedding.weight[20:]:
            went[torch.stack([torch.cdist(row[None], p).min() for p in parts]).argmin()] += 1
    assert went.sum() == 160 and went[0] > 1.5 * went[1] > 1.5 * went[2]


def test_restarts_alone_bring_a_collapsed_codebook_to_its_share_at_every_scale():
    quantizer, care = setup(kmeans=False, patience=5, share=0.3)
    with torch.no_grad():
        quantizer.embedding.weight.fill_(9.0)
    optimizer = torch.optim.Adam(quantizer.parameters(), 1e-2)
    for step in range(250):
        z = latents(16, seed=step % 50)
        care.restart(quantizer, z, step)
        out = quantizer(z)
        out.losses["codebook"].backward()
        optimizer.step()
        optimizer.zero_grad()
        care.observe(out.codes)
        if step == 5:
            assert len(out.codes.unique()) <= 2
    meters = care.meters()
    assert meters["usage"] > 0.6
    assert all(meters[f"usage_{name}"] > 0.3 for name in care.names)


def test_advice_names_the_scale_that_collapsed():
    quantizer, care = setup(vocab=40)
    logs = {"usage": 0.95, "usage_1x1": 0.3, "usage_2x2": 0.05, "usage_4x4": 0.9}
    text = care.advice(logs, quantizer) or ""
    assert text.startswith("only 2 of 40 codes are in use at scale 2x2 (5%). Try: ")
    assert "--objective.codebook.share 0.5" in text and "--model.vocab 10" in text
    assert "entropy" not in text and "l2-norm" not in text, "they drain the coarse scales"
    assert care.advice(logs | {"usage_2x2": 0.1}, quantizer) is None
    whole = care.advice(logs | {"usage": 0.4}, quantizer) or ""
    assert whole.startswith("only 16 of 40 codes are in use (40%).")


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_bad_share(share):
    with pytest.raises(ValueError, match=rf"share must be in \[0, 1\), got {share}"):
        CodebookConfig(share=share)
