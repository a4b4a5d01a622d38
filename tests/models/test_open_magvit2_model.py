"""Open-MAGVIT2: published sizes, what it fits, what it refuses."""

from dataclasses import replace

import pytest
import torch

from builders import build
from smalti.codes import Reads
from smalti.models.open_magvit2 import SIZES, OpenMAGVIT2, OpenMAGVIT2Config, shared, tiny
from smalti.pipeline.sampling import Sampling
from smalti.recipes import RECIPES
from smalti.recipes.var import IMAGES
from smalti.tokenizers import vqgan
from smalti.tokenizers.open_magvit2 import OpenMAGVIT2LFQ
from smalti.tokenizers.open_magvit2 import tiny as tiny_lfq


@pytest.mark.parametrize(("size", "millions"), [("B", 344), ("L", 804), ("XL", 1487)])
def test_published_sizes(size, millions):
    with torch.device("meta"):
        model = OpenMAGVIT2(OpenMAGVIT2Config(**SIZES[size]))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    rows = [table.num_embeddings for table in model.head.tables]
    assert rows == [64, 4096], "no table and no softmax of 262,144"


@pytest.mark.parametrize(
    ("name", "sampling", "ratios"),
    [
        ("magvit2_b", Sampling.of(guidance=1.9), ((1.9, 2.0), (1.0, 1.0))),
        ("magvit2_l", Sampling.of(guidance=1.9), ((1.9, 1.9), (1.0, 1.0))),
        ("magvit2_xl", Sampling.of(guidance=1.75, temperature=1.1), ((1.75, 1.85), (1.1, 1.0))),
    ],
)
def test_it_is_trained_and_drawn_as_published(name, sampling, ratios):
    recipe = RECIPES[name]()
    assert recipe.sampling == sampling
    guidance = [1 + r * (sampling.guidance.scale - 1) for r in recipe.model.guidance_ratios]
    temperature = [r * sampling.filters.temperature for r in recipe.model.temperature_ratios]
    assert (guidance or [ratios[0][0]] * 2) == pytest.approx(ratios[0])
    assert (temperature or [ratios[1][0]] * 2) == pytest.approx(ratios[1])
    train, optim = recipe.train, recipe.train.optim
    large = name == "magvit2_xl"
    assert train.steps * 768 // IMAGES in ((349, 350) if large else (299, 300))
    assert (train.batch, optim.lr, optim.weight_decay) == (768, 2.4e-4 if large else 3e-4, 0.05)
    assert optim.warmup * 768 // IMAGES in ((6, 7) if large else (5, 6))
    tokenizer = RECIPES["magvit2_lfq"]()
    assert tokenizer.model.spec == recipe.model.spec
    assert tokenizer.train.optim.hold * 256 // IMAGES == 199


def test_groups_follow_the_bits_of_a_code():
    lfq = OpenMAGVIT2LFQ(replace(tiny_lfq(), bits=7, size=(8, 16)))
    found = replace(tiny(), guidance_ratios=(1.0, 2.0)).fitted(lfq, Reads(3))
    assert (found.grid, found.vocab, found.channels, found.classes) == ((2, 4), 2, 7, 3)
    assert found.groups == (3, 4) and found.guidance_ratios == (1.0, 2.0)
    same = OpenMAGVIT2LFQ(replace(tiny_lfq(), bits=5))
    assert tiny().fitted(same, Reads(3)).groups == (2, 3)
    single = OpenMAGVIT2LFQ(replace(tiny_lfq(), bits=1))
    found = replace(tiny(), guidance_ratios=(1.0, 2.0)).fitted(single, Reads(3))
    assert found.groups == (1,) and found.guidance_ratios == ()
    numbers = build(vqgan.VQGAN, vqgan.tiny())
    found = tiny().fitted(numbers, Reads(3))
    assert (found.vocab, found.channels, found.groups) == (32, 0, (2, 3))
    assert OpenMAGVIT2(found).spec == numbers.spec


def test_bits_are_shared_evenly():
    assert shared(18, (6, 12)) == (6, 12) and shared(18, (1, 1)) == (9, 9)
    assert shared(10, (1, 1, 1)) == (3, 3, 4) and shared(2, (1, 1, 3)) == (1, 1)


def test_numbers_of_no_bits_are_refused():
    odd = build(vqgan.VQGAN, replace(vqgan.tiny(), vocab=48))
    message = (
        "^OpenMAGVIT2 predicts groups of bits, which needs codes of bits or numbers below a power "
        "of two, but the tokenizer, a VQGAN, gives numbers below 48$"
    )
    with pytest.raises(ValueError, match=message):
        tiny().fitted(odd, Reads(3))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"groups": (2, 2)}, "together the 5 bits of a code, got"),
        ({"groups": ()}, "together the 5 bits"),
        ({"groups": (5, 0)}, "groups must be positive"),
        ({"vocab": 3, "channels": 0}, "a power of two, got 3"),
        ({"vocab": 4}, "of bits or of one number, got"),
        ({"guidance_ratios": (1.0,)}, "guidance_ratios must be 0 or more for each of the 2 groups"),
        ({"guidance_ratios": (1.0, float("nan"))}, r"guidance_ratios .*got \(1.0, nan\)"),
        ({"temperature_ratios": (1.0, 0.0)}, r"temperature_ratios .* 2 groups.*got \(1.0, 0.0\)"),
        ({"dim": 36}, "dim must be a multiple of 4"),
        ({"intra_layers": 0}, "intra_layers must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny(), **bad)
