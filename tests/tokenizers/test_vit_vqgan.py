"""ViT-VQGAN beyond the contract of tokenizers: places, directions, the published sizes."""

from dataclasses import replace

import pytest
import torch

from builders import build
from smalti.tokenizers.vit_vqgan import ViTVQGAN, places, tiny, vit_vqgan


def test_places_are_waves_of_row_and_column():
    table = places((3, 5), 16).view(3, 5, 16)
    rows, columns = table[..., :8], table[..., 8:]
    assert torch.equal(rows, rows[:, :1].expand(3, 5, 8))
    assert torch.equal(columns, columns[:1].expand(3, 5, 8))
    torch.testing.assert_close(rows[2, 0, :4], (2 * 10_000 ** -(torch.arange(4) / 4)).sin())
    torch.testing.assert_close(columns[0, 4, 4:], (4 * 10_000 ** -(torch.arange(4) / 4)).cos())
    assert len(table.flatten(0, 1).unique(dim=0)) == 15
    assert torch.equal(places((6, 7), 16).view(6, 7, 16)[:3, :5], table)


@torch.no_grad()
def test_only_directions_of_latents_count():
    model = build(ViTVQGAN, tiny())
    z = torch.randn(2, 4, 4, 4)
    length = torch.rand(2, 1, 4, 4) + 0.5
    assert torch.equal(model.quantize.encode(z * length), model.quantize.encode(z))
    plain = build(ViTVQGAN, replace(tiny(), l2_norm=False))
    assert not torch.equal(plain.quantize.encode(z * 9), plain.quantize.encode(z))


@torch.no_grad()
def test_a_patch_is_seen_and_made_at_its_place():
    model = build(ViTVQGAN, tiny())
    images = torch.rand(1, 3, 16, 16)
    other = images.clone()
    other[:, :, 4:8, 12:] = 0
    moved = (model.latent(images) - model.latent(other)).abs().amax(1)[0]
    assert moved.argmax() == 1 * 4 + 3, "most is changed where the patch was"
    z, changed = torch.randn(2, 1, 4, 4, 4), None
    changed = z[0].clone()
    changed[:, :, 1, 3] = z[1, :, :, 1, 3]
    moved = (model.render(z[0]) - model.render(changed)).abs()
    cells = moved.unfold(2, 4, 4).unfold(3, 4, 4).mean((0, 1, 4, 5))
    assert cells.argmax() == 1 * 4 + 3


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        (("small", "small"), 53_378_272),
        (("base", "base"), 175_960_800),
        (("small", "large"), 663_962_080),
    ],
)
def test_published_sizes(sizes, count):
    with torch.device("meta"):
        model = ViTVQGAN(vit_vqgan(*sizes))
    assert sum(p.numel() for p in model.parameters()) == count
    assert model.spec.grids == ((32, 32),) and model.spec.vocab == 8192


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"width": 18}, "widths must be multiples of 4, got 18"),
        ({"decoder_width": 20, "decoder_heads": 3}, "dim must be a multiple of heads, got 20, 3"),
        ({"size": (16, 18)}, r"size must be multiples of 4 pixels, got \(16, 18\)"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"vocab": 1}, "vocab must be at least 2, got 1"),
    ],
)
def test_bad_configs(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **bad)
