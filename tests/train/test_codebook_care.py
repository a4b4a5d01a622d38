import math
import re

import pytest
import torch
from torch.nn import functional as F

from builders import build
from smalti.recipes.base import TokenizerRecipe
from smalti.tokenizers import vqgan
from smalti.tokenizers.quantize.vq import VectorQuantizer
from smalti.train.codebook_care import CodebookCare, CodebookConfig, kmeans
from smalti.train.objectives import ReconstructionConfig, ReconstructionObjective


def rows_around(centres: torch.Tensor, each: int, spread: float = 0.01) -> torch.Tensor:
    torch.manual_seed(1)
    return centres.repeat(each, 1) + spread * torch.randn(each * len(centres), centres.shape[1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_finds_two_clusters(seed):
    centres = torch.tensor([[3.0, 0.0], [-3.0, 1.0]])
    rows = rows_around(centres, 50)
    found = kmeans(rows, 2, seeded(seed), spherical=False)
    found = found[found[:, 0].argsort(descending=True)]
    assert torch.allclose(found, torch.stack([rows[0::2].mean(0), rows[1::2].mean(0)]), atol=1e-5)


def test_every_row_has_a_centre_near_by():
    rows = rows_around(10 * torch.eye(4), 30)
    found = kmeans(rows, 24, seeded(), spherical=False)
    assert torch.cdist(rows, found).amin(1).max() < 0.1


def test_spherical_centres_have_length_one():
    rows = F.normalize(rows_around(torch.eye(3), 20), dim=-1)
    found = kmeans(rows, 6, seeded(), spherical=True)
    assert torch.allclose(found.norm(dim=1), torch.ones(6))
    assert not torch.allclose(kmeans(rows, 2, seeded(), False).norm(dim=1), torch.ones(2))


def test_fewer_rows_than_clusters_give_different_centres():
    rows = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    found = kmeans(rows, 7, seeded(), spherical=False)
    assert found.shape == (7, 2) and found.isfinite().all()
    assert torch.cdist(found, rows).amin(1).max() < 0.1
    with pytest.raises(ValueError, match="at least one row"):
        kmeans(rows[:0], 2, seeded(), spherical=False)


def as_latents(rows: torch.Tensor) -> torch.Tensor:
    """Rows (n, C) as latents of one cell, (n, C, 1, 1)."""
    return rows[:, :, None, None]


def test_the_pool_keeps_the_newest_and_starts_the_codebook():
    quantizer = VectorQuantizer(3, 2, l2_norm=False)
    care = CodebookCare(quantizer, CodebookConfig(samples=4, warmup=5))
    assert [care.warming_up(s) for s in (0, 4, 5)] == [True, True, False]
    for i in range(10):
        care.collect(as_latents(torch.full((5, 2), float(i))))
    assert care.pool[:, 0].flatten().tolist() == [7.0] * 2 + [8.0] * 5 + [9.0] * 5
    care.start(quantizer, 5)
    assert all(7 <= v <= 9 for v in quantizer.embedding.weight.flatten().tolist())
    empty = CodebookCare(quantizer, CodebookConfig(samples=4))
    empty.collect(torch.ones(2, 2, 1, 1))  # a pool that is not full: its zeros are no latents
    empty.start(quantizer, 0)
    assert torch.allclose(quantizer.embedding.weight, torch.ones(3, 2), atol=0.1)


def worn(patience: int = 5) -> tuple[VectorQuantizer, CodebookCare]:
    """Eight codes of which 0 and 1 are used, for as many steps as patience lasts."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 3, l2_norm=False)
    care = CodebookCare(quantizer, CodebookConfig(kmeans=False, patience=patience))
    for _ in range(5):
        care.observe(torch.tensor([[0, 1], [1, 0]]))
    return quantizer, care


def test_dead_codes_move_onto_latents_after_patience():
    quantizer, care = worn()
    batch = 4 + torch.randn(20, 3)
    before = quantizer.embedding.weight.detach().clone()
    care.restart(quantizer, as_latents(batch), step=10)
    assert torch.equal(quantizer.embedding.weight, before)  # five unused steps are not yet more
    care.observe(torch.tensor([0, 1]))
    care.restart(quantizer, as_latents(batch), step=11)
    assert torch.equal(quantizer.embedding.weight, before)  # only every tenth step
    care.restart(quantizer, as_latents(batch), step=20)
    after = quantizer.embedding.weight.detach()
    assert torch.equal(after[:2], before[:2])
    places = torch.cdist(after[2:], batch).argmin(1)
    assert torch.equal(after[2:], batch[places])
    assert len(set(places.tolist())) == 6
    assert care.moved.tolist() == [6, 6] + [0] * 6
    assert care.age.tolist() == [[0, 0] + [6] * 6], "moved is not used"


def test_patience_zero_never_restarts():
    quantizer, care = worn(patience=0)
    before = quantizer.embedding.weight.detach().clone()
    care.restart(quantizer, torch.randn(20, 3, 1, 1), step=100)
    assert torch.equal(quantizer.embedding.weight, before)


def test_a_batch_smaller_than_the_dead_codes_restarts_what_it_can():
    quantizer, care = worn()
    care.observe(torch.tensor([0, 1]))
    before = quantizer.embedding.weight.detach().clone()
    care.restart(quantizer, 9 + torch.randn(4, 3, 1, 1), step=10)
    moved = (quantizer.embedding.weight != before).any(1)
    assert moved.tolist() == [False] * 2 + [True] * 4 + [False] * 2


def test_latents_far_from_their_codes_are_preferred():
    quantizer, care = worn()
    care.observe(torch.tensor([0, 1]))
    near = quantizer.embedding.weight.detach()[:1].repeat(50, 1)
    far = 50 + torch.randn(6, 3)
    care.restart(quantizer, as_latents(torch.cat((near, far))), step=10)
    assert (quantizer.embedding.weight[2:] > 40).all()


def test_usage_and_perplexity():
    _, care = worn()
    for _ in range(94):
        care.observe(torch.tensor([0, 1]))
    assert care.meters()["usage"].item() == 1  # unused for 99 steps
    care.observe(torch.tensor([0, 1]))
    meters = care.meters()
    assert meters["usage"].item() == 0.25
    assert meters["perplexity"].item() == pytest.approx(2, rel=1e-5)
    fresh = CodebookCare(VectorQuantizer(8, 3), CodebookConfig())
    fresh.observe(torch.tensor([0, 0, 0, 5]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert fresh.meters()["perplexity"].item() == pytest.approx(math.exp(entropy), rel=1e-5)


def test_advice_names_the_flags_that_help():
    quantizer = VectorQuantizer(64, 32, l2_norm=False)
    off = CodebookCare(quantizer, CodebookConfig(kmeans=False, patience=0))
    assert off.advice({"usage": 0.5}, quantizer) is None
    text = off.advice({"usage": 0.25}, quantizer) or ""
    assert text.startswith("only 16 of 64 codes are in use (25%)")
    for flag in ("codebook.kmeans", "codebook.patience 100", "--model.l2-norm", "--model.dim 8"):
        assert flag in text
    assert "--objective.entropy 0.1" in text and "--model.vocab 16" in text
    good = VectorQuantizer(64, 8)
    on = CodebookCare(good, CodebookConfig()).advice({"usage": 0.25}, good) or ""
    assert "kmeans" not in on and "patience" not in on and "--model.dim" not in on


def test_every_flag_of_the_advice_is_a_field_of_the_recipe():
    quantizer = VectorQuantizer(64, 32, l2_norm=False)
    flags: set[str] = set()
    for config in (CodebookConfig(kmeans=False, patience=0), CodebookConfig(patience=200)):
        text = CodebookCare(quantizer, config).advice({"usage": 0.1}, quantizer) or ""
        flags |= set(re.findall(r"--([\w.-]+)", text))
    assert len(flags) == 7
    for flag in flags:
        value = TokenizerRecipe()
        for name in flag.replace("-", "_").split("."):
            value = getattr(value, name)


def test_state_round_trip_goes_on_the_same():
    quantizer, care = worn()
    care.observe(torch.tensor([0, 1]))
    other = CodebookCare(quantizer, care.config)
    other.load_state_dict(care.state_dict())
    copy = VectorQuantizer(8, 3, l2_norm=False)
    copy.load_state_dict(quantizer.state_dict())
    batch = torch.randn(20, 3)
    care.restart(quantizer, as_latents(batch), step=10)
    other.restart(copy, as_latents(batch), step=10)
    assert torch.equal(quantizer.embedding.weight, copy.embedding.weight)
    assert care.meters() == other.meters()


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_batch_in_parts_is_one_step(decay):
    """Ages, counts and averages are those of the whole, and the table stays until the next step."""
    found = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = build(vqgan.VQGAN, vqgan.tiny())
        codebook = CodebookConfig(kmeans=False, patience=5, decay=decay)
        config = ReconstructionConfig(codebook=codebook, perceptual="none", gan_weight=0.0)
        objective = ReconstructionObjective(model, config)
        images = torch.randint(0, 256, (4, 3, *model.size), dtype=torch.uint8)
        for step in range(1, 4):
            for part in images.chunk(parts):
                objective({"images": part}, step)
        care = objective.care
        assert care is not None
        state = [care.age, care.moved, care.counts, model.codebook.embedding.weight.detach()]
        state += [] if care.averages is None else [care.averages.mass, care.averages.sums]
        found.append(state)
    for whole, split in zip(*found, strict=True):
        torch.testing.assert_close(split, whole)


def test_the_table_begins_once_in_a_step_of_parts():
    torch.manual_seed(0)
    model = build(vqgan.VQGAN, vqgan.tiny())
    codebook = CodebookConfig(warmup=1)
    config = ReconstructionConfig(codebook=codebook, perceptual="none", gan_weight=0.0)
    objective = ReconstructionObjective(model, config)
    images = torch.randint(0, 256, (2, 3, *model.size), dtype=torch.uint8)
    objective({"images": images}, 0)
    objective({"images": images[:1]}, 1)
    table = model.codebook.embedding.weight.detach().clone()
    objective({"images": images[1:]}, 1)
    assert torch.equal(table, model.codebook.embedding.weight)
