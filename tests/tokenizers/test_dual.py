"""The tokenizer of two levels: its tables, what stands where, one level alone, and mistakes."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from builders import build, random_codes
from smalti.codes import TokenSpec
from smalti.models import towers
from smalti.nn.frozen_vit import FrozenViT, FrozenViTConfig
from smalti.nn.vision import TowerConfig
from smalti.tokenizers.dual import DualTokenizer, tiny
from smalti.tokenizers.dual_pixels import PixelConfig
from smalti.tokenizers.quantize import simvq
from smalti.tokenizers.quantize.simvq import SimVQ
from smalti.train.dual import DualObjective, DualObjectiveConfig


@pytest.fixture
def model() -> DualTokenizer:
    return build(DualTokenizer, tiny())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


# -- codes of several tables


def test_codes_are_numbered_through_the_tables():
    spec = TokenSpec(((1, 2), (2, 2)), 10, tables=(4, 6))
    assert spec.firsts.tolist() == [0, 0, 4, 4, 4, 4]
    assert spec.empty(1).tolist() == [[0, 0, 4, 4, 4, 4]]
    assert spec.words == "out of 4 and 6" and spec.positions == 6
    first, second = spec.by_table(torch.tensor([[3, 0, 9, 4, 5, 6]]))
    assert first.tolist() == [[3, 0]] and second.tolist() == [[5, 0, 1, 2]]
    assert spec.bits == pytest.approx((2 * 2 + 4 * 2.584962500721156) / 6)


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([0, 4, 4, 4, 4, 4], r"codes of the 1x2 grid must be in \[0, 4\), got 0 to 4: the levels"),
        ([0, 0, 4, 4, 4, 3], r"codes of the 2x2 grid must be in \[4, 10\), got 3 to 4"),
        ([0, 0, 4, 4, 4, 10], r"codes of the 2x2 grid must be in \[4, 10\), got 4 to 10"),
    ],
)
def test_codes_out_of_step_are_refused(codes, words):
    with pytest.raises(ValueError, match=words):
        TokenSpec(((1, 2), (2, 2)), 10, tables=(4, 6)).by_table(torch.tensor([codes]))


@pytest.mark.parametrize("wrong", [(4,), (4, 5), (10, 0), (4, 3, 3)])
def test_tables_that_do_not_fit_the_grids_are_refused(wrong):
    with pytest.raises(ValueError, match="tables must be one for each of 2 grids, of 10 codes"):
        TokenSpec(((1, 2), (2, 2)), 10, tables=wrong)


# -- both levels


@torch.no_grad()
def test_codes_of_each_level_are_the_nearest_of_its_own_table(model, images):
    first, second = model.spec.by_table(model.encode(images))
    latents = model.semantic_encoder(model.target(images)), model.pixel_latent(images)
    tables = model.semantic_quantize, model.pixel_quantize
    for codes, z, quantizer in zip((first, second), latents, tables, strict=True):
        rows = z.flatten(2).mT.double()
        distances = torch.cdist(rows, (quantizer.table @ quantizer.transform.weight.T).double())
        assert torch.equal(distances.argmin(-1), codes)


@torch.no_grad()
def test_what_is_trained_is_what_is_decoded(model, images):
    out, codes = model(images), model.encode(images)
    found = torch.cat([level.codes.flatten(1) for level in (out.semantic, out.pixels)], 1)
    assert torch.equal(found + model.spec.firsts, codes)
    torch.testing.assert_close(out.images, model.decode(codes), rtol=1e-5, atol=1e-5)
    cosine = F.cosine_similarity(out.features, out.target, dim=1)
    torch.testing.assert_close(out.losses["features"], (1 - cosine).mean())


@torch.no_grad()
def test_the_first_level_alone_does_not_see_the_second(model, images):
    codes = model.encode(images)
    other = codes.clone()
    other[:, 4:] = random_codes(model.spec, 3)[:, 4:]
    assert not torch.equal(other, codes)
    assert torch.equal(model.preview(codes, 1), model.preview(other, 1))
    assert (model.preview(codes, 1) - model.decode(codes)).abs().max() > 1e-2


def test_a_picture_begins_as_one_of_pixels_alone_and_learns_from_both(images):
    torch.manual_seed(0)
    model = DualTokenizer(tiny())
    codes, other = model.encode(images), model.encode(images.flip(3))
    mixed = torch.cat((other[:, :4], codes[:, 4:]), 1)
    assert not torch.equal(mixed, codes)
    before = model.decode(codes)
    torch.testing.assert_close(model.decode(mixed), before)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    (model.decode(codes) - images).square().mean().backward()
    optimizer.step()
    assert (model.decode(mixed) - model.decode(codes)).abs().max() > 1e-4


def test_the_vit_does_not_learn(model, images):
    assert not any(p.requires_grad for p in model.vit.parameters())
    out = model.train()(images)
    (out.images.mean() + sum(out.losses.values())).backward()
    assert all(p.grad is None for p in model.vit.parameters())
    tables = model.semantic_quantize, model.pixel_quantize
    assert all(quantizer.transform.weight.grad.abs().max() > 0 for quantizer in tables)


@torch.no_grad()
def test_semantic_codes_alone_are_a_picture(images):
    model = build(DualTokenizer, replace(tiny(), pixel_vocab=0, decoder=replace(
        tiny().decoder, latent=4)))  # fmt: skip
    assert model.spec == TokenSpec(((2, 2),), 16) and model.levels == 1
    codes = model.encode(images)
    out = model(images)
    assert out.pixels is None and torch.equal(out.semantic.codes.flatten(1), codes)
    torch.testing.assert_close(out.images, model.decode(codes), rtol=1e-5, atol=1e-5)
    assert "pixel_codebook" not in out.losses


@torch.no_grad()
def test_swapped_cells_are_those_of_the_image_before(model, images):
    whole = torch.ones(3, 1, 8, 8, dtype=torch.bool)
    first, second = model.spec.by_table(model.encode(images))
    swapped = torch.cat((first, second.roll(1, 0) + model.spec.tables[0]), 1)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(model(images, whole).images, model.decode(swapped), **close)
    torch.testing.assert_close(model(images, ~whole).images, model(images).images, **close)


# -- the objective


@torch.no_grad()
def test_the_objective_weighs_its_terms(model, images):
    config = DualObjectiveConfig(perceptual="none", gan_weight=0.0, features=3.0, commitment=0.5)
    goal = DualObjective(model, config)
    uint8 = ((images + 1) * 127.5).round().to(torch.uint8)
    out = model(uint8 / 127.5 - 1)
    losses = goal({"images": uint8}, 0)
    wanted = F.mse_loss(out.images, uint8 / 127.5 - 1) + 3 * out.losses["features"]
    for level in (out.semantic, out.pixels):
        wanted = wanted + level.losses["codebook"] + 0.5 * level.losses["commitment"]
    torch.testing.assert_close(losses.totals["model"], wanted)
    used = len(out.semantic.codes.unique()) / 16
    assert losses.logs["semantic_usage"].item() == pytest.approx(used)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_how_many_cells_are_swapped(model, images, share):
    config = DualObjectiveConfig(perceptual="none", gan_weight=0.0, swap=1.0, swapped=share)
    chosen = DualObjective(model, config).chosen(images)
    assert chosen.shape == (3, 1, 8, 8) and (chosen == bool(share)).all()


# -- the table


@torch.no_grad()
def test_a_table_compared_in_blocks_is_compared_whole(monkeypatch):
    torch.manual_seed(0)
    quantizer, z = SimVQ(40, 3), torch.randn(2, 3, 5, 7)
    whole = quantizer.encode(z)
    monkeypatch.setattr(simvq, "ENTRIES", 120)
    assert torch.equal(quantizer.encode(z), whole) and len(whole.unique()) > 5


def test_every_code_moves_at_once():
    torch.manual_seed(0)
    quantizer, z = SimVQ(20, 3), torch.randn(1, 3, 1, 1)
    before = quantizer.codebook().detach().clone()
    quantizer(z).losses["codebook"].backward()
    with torch.no_grad():
        quantizer.transform.weight -= quantizer.transform.weight.grad
    assert ((quantizer.codebook() - before).abs().amax(1) > 0).all()
    assert not quantizer.table.requires_grad


def test_a_rotated_gradient_turns_with_the_latent():
    torch.manual_seed(0)
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    quantizer = SimVQ(20, 4, rotate=True)
    out = quantizer(z)
    codes = quantizer.decode(out.codes)
    torch.testing.assert_close(out.latent, codes)
    (out.latent * codes.detach()).sum().backward()  # along the code: then along the latent
    lengths = codes.norm(dim=1, keepdim=True) / z.norm(dim=1, keepdim=True)
    torch.testing.assert_close(z.grad, (z * lengths.square()).detach(), rtol=1e-4, atol=1e-5)


# -- the ViT


@torch.no_grad()
def test_the_vit_of_towers_sees_what_they_see():
    torch.manual_seed(0)
    pair = build(towers.Towers, towers.tiny())
    config = replace(tiny(), size=(8, 8)).seeing(pair.config)
    model = DualTokenizer(config).eval()
    model.see_with(pair)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    hidden = pair.vision(towers.normalised(images, pair.config))
    wanted = hidden.view(2, 2, 2, 16).mean((1, 2))  # of 2 x 2 patches one feature
    torch.testing.assert_close(model.vit(images)[..., 0, 0], wanted)
    assert config.spec.grids == ((1, 1), (4, 4))


@pytest.mark.parametrize(
    ("size", "seen"),
    [((256, 256), (252, 252)), ((512, 512), (504, 504)), ((384, 512), (336, 448)),
     ((512, 384), (448, 336)), ((320, 480), (308, 476))],
)  # fmt: skip
def test_sizes_that_a_qwen_sees(size, seen):
    assert FrozenViTConfig().seen(size) == seen


@torch.no_grad()
def test_a_picture_that_fits_is_not_resized():
    vit = FrozenViT(tiny().vit)
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    mean, std = (torch.tensor(t)[:, None, None] for t in (vit.config.mean, vit.config.std))
    torch.testing.assert_close(vit.prepared(images), ((images + 1) / 2 - mean) / std)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": (17, 16)}, "size must be multiples of 2 pixels, got 17x16"),
        ({"size": (4, 4)}, r"pictures must have at least 8 pixels, got \(4, 4\)"),
        ({"heads": 8}, "width must be a multiple of 4 times heads, got 16, 8"),
        ({"semantic_vocab": 1}, "semantic_vocab must be at least 2, got 1"),
        ({"encoder": PixelConfig(8, (1, 2, 2), 1, (), 4)}, "must have cells of as many pixels"),
    ],
)
def test_configurations_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(tiny(), **changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FrozenViTConfig(size=28), "size must be 0 of a qwen"),
        (lambda: FrozenViTConfig("siglip"), "positive of others, got 0"),
        (lambda: FrozenViTConfig("clip", 32, 4, 3, 128, vision=TowerConfig()),
         "size must be a multiple of 12 pixels, got 32"),
        (lambda: FrozenViTConfig("siglip", 32, 4, 2, 7, vision=TowerConfig()),
         "features of a siglip must be 128, as its tower is wide, got 7"),
        (lambda: PixelConfig(attends=(5,)), r"attends must be levels from 0 to 4, got \(5,\)"),
        (lambda: PixelConfig(latent=33), "must be a multiple of latent, got 512, 33"),
        (lambda: SimVQ(1, 4), "vocab must be at least 2 and dim at least 1, got 1, 4"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be(make, words):
    with pytest.raises(ValueError, match=words):
        make()
