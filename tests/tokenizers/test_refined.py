"""Codes of another tokenizer, of which a renderer makes pictures, as large or larger."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from builders import build, random_codes
from smalti import modules
from smalti.config import from_dict, to_dict
from smalti.modules import coder, fingerprint, identity, mark_of_codes, module_of
from smalti.nn.adapters import AdapterConfig
from smalti.tokenizers import dual, refined, vqgan
from smalti.tokenizers.base import ImageTokenizer
from smalti.tokenizers.kinds import KINDS
from smalti.tokenizers.refined import Refined
from smalti.train.rendering import RenderingConfig


def pictures(size: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, size, size, generator=generator) * 2 - 1


def around(kind: str, seed: int = 0, **changes) -> tuple[Refined, ImageTokenizer]:
    """A tokenizer with another one inside, and that one."""
    inside = build(KINDS[kind].module, KINDS[kind].tiny(), seed)
    height, width = inside.size
    renderer = replace(refined.tiny().renderer, patch=2)  # a palette has a code for each pixel
    given = {"size": (2 * height, 2 * width), "tokenizer": inside.config, "cells": (1, 1)}
    config = replace(refined.tiny(), **given | {"renderer": renderer} | changes)
    made = build(Refined, config.coding(inside))
    made.code_by(inside)
    return made, inside


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_those_of_the_tokenizer_inside(kind):
    """Of every kind, of pictures whose pixels are the means of squares; its vectors are read."""
    made, inside = around(kind)
    height, width = inside.size
    large = pictures(2 * height)[..., : 2 * width]
    codes = made.encode(large)
    small = F.avg_pool2d(large, 2)
    assert torch.equal(codes, inside.encode(small)) and made.spec == inside.spec
    assert made.decode(codes).shape == large.shape
    channels, rows, columns = inside.embedded(codes).shape[1:]
    assert (channels, (rows, columns)) == (made.config.channels, made.config.cells)
    assert made.vectors(codes)[0, 1].equal(inside.embedded(codes)[0, :, 0, 1])


@pytest.mark.parametrize("kind", ["dual", "vqgan", "kl_vae"])
@torch.no_grad()
def test_vectors_are_what_the_tokenizer_decodes(kind):
    tokenizer = build(KINDS[kind].module, KINDS[kind].tiny())
    codes = random_codes(tokenizer.spec, 2)
    vectors = tokenizer.embedded(codes)
    if kind == "dual":
        pixels = tokenizer.decoder(tokenizer.post_quant_conv(vectors), vectors)
    else:
        pixels = tokenizer.render(vectors / getattr(tokenizer.config, "scale", 1))
    torch.testing.assert_close(pixels, tokenizer.decode(codes))


def test_training_reaches_every_weight_of_the_renderer_alone():
    made, inside = around("dual")
    objective = RenderingConfig().objective(made, 0, 10)
    objective.train()
    assert not made.tokenizer.training and made.renderer.training
    images = ((pictures(32, 4) + 1) * 127.5).to(torch.uint8)
    torch.manual_seed(0)
    objective({"images": images}, 0).totals["model"].backward()
    still = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.any()]
    assert still and all(name.startswith("tokenizer.") for name in still)
    assert fingerprint(made.coder) == fingerprint(inside)


@torch.no_grad()
def test_the_first_level_is_shown_by_the_tokenizer_inside():
    made, inside = around("dual")
    codes = random_codes(made.spec, 2)
    shown = made.preview(codes, 1)
    torch.testing.assert_close(F.avg_pool2d(shown, 2), inside.preview(codes, 1))
    assert torch.equal(made.preview(codes, 2), made.decode(codes))
    with pytest.raises(ValueError, match="depth must be from 1 to 2, got 3"):
        made.preview(codes, 3)


def test_what_makes_codes_is_told_apart_from_what_makes_pictures():
    made, inside = around("dual")
    assert coder(made) is made.tokenizer and coder(inside) is inside
    about = identity(made)
    assert mark_of_codes(about) == fingerprint(inside) != about["fingerprint"]
    assert "coder" not in identity(inside) and mark_of_codes(identity(inside)) == fingerprint(
        inside
    )
    other, _ = around("dual", 1)
    assert mark_of_codes(identity(other)) != fingerprint(inside)


def test_the_kind_of_the_tokenizer_is_written_beside_its_settings():
    config = around("vqgan")[0].config
    plain = to_dict(config)
    assert plain["tokenizer"]["type"] == "vqgan"
    assert from_dict(type(config), plain) == config
    with pytest.raises(ValueError, match="tokenizer: type must be one of vqgan, .* got 'vq'"):
        from_dict(type(config), plain | {"tokenizer": plain["tokenizer"] | {"type": "vq"}})
    with pytest.raises(ValueError, match="tokenizer: type must be one of .* got None"):
        from_dict(type(config), plain | {"tokenizer": 3})
    assert isinstance(module_of(config, modules.TOKENIZERS).tokenizer, vqgan.VQGAN)


def test_learned_tokens_can_look_at_codes_as_well():
    small = replace(refined.tiny().renderer, adapter=AdapterConfig("xattn", 2, 12, 24, 5, 2))
    made, _ = around("dual", renderer=small)
    with torch.no_grad():
        assert made.decode(random_codes(made.spec, 2)).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (24, 24)}, "the pictures which are coded, 16x16, or .* as 32x32, got 24x24"),
        ({"size": (32, 48)}, "size must be that of the pictures which are coded, 16x16, or"),
        ({"size": (8, 8)}, "size must be that of the pictures which are coded, 16x16, or"),
        ({"cells": (16, 16)}, "patch must be at most 2 pixels, so that each of the 16x16 cells"),
        ({"guidance": 0.0}, "guidance must be a positive number, got 0.0"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Refined(refined.tiny(**changes))


def test_a_tokenizer_of_pictures_of_another_size_is_refused():
    inside = build(dual.DualTokenizer, replace(dual.tiny(), size=(24, 24)))
    with pytest.raises(ValueError, match="which are coded, 24x24, or .* such as 48x48, got 32x32"):
        refined.tiny().coding(inside)


def test_codes_have_places_where_those_of_the_tokenizer_inside_have():
    found = {kind: [tokenizer.placed for tokenizer in around(kind)] for kind in KINDS}
    assert all(mine == theirs for mine, theirs in found.values()), found
    assert found["titok"] == [False, False]
