"""Towers: who sees whom, what stands for the whole, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from smalti.models.towers import Matcher, TowerConfig, Towers, TowersConfig, tiny
from smalti.text.words import Words

KINDS = ("clip", "siglip")


@pytest.fixture(scope="module")
def words():
    return Words.train(["a small red circle", "a large blue star at the top left"], 300)


def towers(kind, **changes):
    torch.manual_seed(0)
    return Towers(replace(tiny(), kind=kind, **changes)).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_features_have_length_1_and_every_weight_a_gradient(kind):
    model = towers(kind)
    images, ids = torch.rand(3, 3, 8, 8) * 2 - 1, torch.randint(3, 300, (3, 8))
    ids[:, 5:] = model.config.stop
    pictures, texts = model.see(images), model.read(ids)
    for features in (pictures, texts):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(3))
    target = torch.randn(3, 3)
    (model.logits(pictures, texts) * target).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_compared_in_float32_within_autocast(kind):
    model, features = towers(kind), F.normalize(torch.randn(2, 5, 16), dim=-1)
    expected = model.logits(*features)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.logits(*features)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@torch.no_grad()
def test_a_clip_reads_to_the_first_stop_and_a_siglip_to_the_end():
    ids = torch.tensor([[5, 6, 1, 2, 2, 2, 2, 2]])
    other = ids.clone()
    other[:, 3:] = 7
    clip, siglip = towers("clip"), towers("siglip")
    torch.testing.assert_close(clip.read(ids), clip.read(other))
    assert (siglip.read(ids) - siglip.read(other)).abs().max() > 1e-3
    first = torch.tensor([[5, 6, 1, 7, 1, 2, 2, 2]])
    torch.testing.assert_close(clip.read(ids), clip.read(first))
    largest = towers("clip", largest=True)  # the 7 is the end
    assert (largest.read(other) - clip.read(other)).abs().max() > 1e-3
    hidden = largest.text(other)
    torch.testing.assert_close(largest.text.whole(hidden, other), largest.text.head(hidden[:, 3]))


@torch.no_grad()
def test_a_clip_reads_from_left_to_right():
    ids = torch.randint(3, 300, (1, 8))
    other = ids.clone()
    other[:, 5] = (ids[:, 5] + 1) % 300
    for kind, same in (("clip", True), ("siglip", False)):
        model = towers(kind)
        change = (model.text(ids) - model.text(other)).abs().amax((0, 2))
        assert bool((change[:5] < 1e-6).all()) == same and bool((change[5:] > 1e-6).all())


@torch.no_grad()
def test_a_siglip_pools_by_its_query_and_a_clip_by_its_token():
    for kind, changed in (("clip", False), ("siglip", True)):
        model = towers(kind)
        hidden = torch.randn(2, 5, 16)
        other = hidden.clone()
        other[:, 3] += 1
        change = (model.vision.whole(hidden) - model.vision.whole(other)).abs().max()
        assert bool(change > 1e-4) == changed
        hidden[:, 0] += torch.randn(16)
        assert (model.vision.whole(hidden) - model.vision.whole(other)).abs().max() > 1e-4


def test_pixels_are_normalised():
    config = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.2)}
    model = towers("siglip", **config)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    found = model.normalised(images)
    for i, (mean, std) in enumerate(zip(*config.values(), strict=True)):
        torch.testing.assert_close(found[:, i], ((images[:, i] + 1) / 2 - mean) / std)
    with pytest.raises(ValueError, match="the towers see 8 x 8 pixels, got 8 x 12"):
        model.normalised(torch.zeros(1, 3, 8, 12))


@pytest.mark.parametrize("kind", KINDS)
def test_texts_become_ids_between_marks(words, kind):
    config = replace(tiny(), kind=kind, length=6).fitted(words)
    matcher = Matcher(Towers(config), words)
    start = [words.specials["<s>"]] if kind == "clip" else []
    stop, pad = words.specials["</s>"], words.specials["<pad>"]
    circle = words.read("circle")
    row = [*start, *circle, stop]
    long = " ".join(["circle"] * 9)
    found = matcher.ids(["Circle", long]).tolist()
    assert found[0] == row + [pad] * (6 - len(row))
    assert found[1] == [*start, *words.read(long)][:5] + [stop]
    assert matcher.fits("circle") and not matcher.fits(long)
    exact = words.write(words.read(long)[: 5 - len(start)])
    assert matcher.fits(exact) and words.read(exact) == words.read(long)[: 5 - len(start)]


def test_a_matcher_sees_and_reads(words):
    matcher = Matcher(Towers(tiny().fitted(words)).eval(), words)
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        wanted = matcher.towers.see(images.float() / 127.5 - 1)
    torch.testing.assert_close(matcher.see(images), wanted)
    texts = ["a red circle", "a star", "a blue star"]
    one = torch.cat([matcher.read([text]) for text in texts])
    torch.testing.assert_close(matcher.read(texts, batch=2), one)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 3}, "size must be at least patch 4, got 3"),
        ({"stop": 300}, "stop must be an id below vocab 300, got 300"),
        ({"features": 12}, "features must be 16, got 12"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be three positive numbers"),
        ({"kind": "lit"}, "kind must be one of clip, siglip, got 'lit'"),
        ({"length": 1}, "length must be at least 2, got 1"),
    ],
)
def test_what_is_no_configuration(changes, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        replace(tiny(), **changes)


def test_a_tower_of_uneven_heads_is_refused():
    with pytest.raises(ValueError, match="dim must be a multiple of heads, got 100, 3"):
        TowerConfig(dim=100, heads=3)
    assert TowersConfig().patches == 64
