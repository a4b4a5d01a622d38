"""IBQ: published sizes and settings, new weights, and what the class modulates."""

from dataclasses import replace

import pytest
import torch

from builders import build, random_codes
from smalti.codes import Cond, Reads, Span
from smalti.models.ibq import IBQ, SIZES, IBQConfig, tiny
from smalti.nn.autoencoder import levels_at
from smalti.recipes import RECIPES
from smalti.recipes.var import IMAGES
from smalti.tokenizers.fsq import FSQ
from smalti.tokenizers.fsq import tiny as tiny_fsq
from smalti.tokenizers.ibq import IBQTokenizer, f16


@pytest.mark.parametrize(
    ("size", "millions"), [("B", 343), ("L", 650), ("XL", 1076), ("XXL", 2063)]
)
def test_published_sizes(size, millions):
    """342 M, 649 M, 1.1 B and 2.1 B in the paper."""
    with torch.device("meta"):
        model = IBQ(IBQConfig(**SIZES[size]))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


def test_published_tokenizers():
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in IBQTokenizer(f16(v)).parameters()) for v in (1024, 262144)]
    assert sizes[1] - sizes[0] == (262144 - 1024) * 256
    assert levels_at(f16(), f16().attention_at) == [4] and f16().spec.grids == ((16, 16),)
    for vocab, epochs in ((1024, 330), (8192, 280), (16384, 330), (262144, 330)):
        recipe = RECIPES[f"ibq_tokenizer_{vocab}"]()
        assert recipe.model == f16(vocab)
        train, goal = recipe.train, recipe.objective
        assert train.steps * 256 // IMAGES in (epochs - 1, epochs)
        assert train.optim.hold * 256 // IMAGES == 249
        weights = (goal.joint, goal.commitment, goal.quantizer_weight, goal.entropy)
        assert weights == (1.0, 1.0, 0.25, 0.05) and not goal.codebook.kmeans


@pytest.mark.parametrize(
    ("name", "epochs", "drawn"),
    [
        ("ibq_b", 300, (2.25, 1.1)),
        ("ibq_l", 350, (2.0, 1.0)),
        ("ibq_xl", 400, (2.35, 1.15)),
        ("ibq_xxl", 450, (2.85, 1.2)),
    ],
)
def test_it_is_trained_and_drawn_as_published(name, epochs, drawn):
    recipe = RECIPES[name]()
    assert (recipe.sampling.guidance.scale, recipe.sampling.filters.temperature) == drawn
    train, optim = recipe.train, recipe.train.optim
    assert train.steps * train.batch // IMAGES in (epochs - 1, epochs)
    assert (train.batch, optim.lr, optim.weight_decay) == (768, 3e-4, 0.05)
    assert optim.final_lr == (0.1 if epochs < 400 else 0.01)
    assert optim.warmup * 768 // IMAGES in (epochs // 50 - 1, epochs // 50)


@pytest.mark.parametrize("shared", [False, True])
def test_a_new_model_is_nearly_its_embeddings(shared):
    """Gates are nearly off and the head is zero, so every code is as likely as any other."""
    torch.manual_seed(0)
    model = IBQ(replace(tiny(), shared_adaln=shared)).eval()
    codes, cond = random_codes(model.spec, 2), Cond(labels=torch.tensor([0, 3]))
    uniform = torch.tensor(32.0).log().expand(2, 16)
    torch.testing.assert_close(model.loss(codes, cond), uniform)
    gates = model.prepare(cond).layers[:, :, :2]
    assert 0 < gates.abs().max() < (5e-3 if not shared else 0.5)


def test_the_class_reaches_later_positions_through_layers_alone():
    """With its own position the same, another class changes what every layer computes."""
    model = build(IBQ, tiny())
    codes = random_codes(model.spec, 1)
    one, other = (model.prepare(Cond(labels=torch.tensor([i]))) for i in (1, 2))
    span = Span.whole(16)
    with torch.no_grad():
        first = model.hidden(codes, one, span)
        same = replace(one, layers=other.layers)
        assert (model.hidden(codes, same, span) - first).abs().amax(-1).min() > 1e-3
        last = replace(one, last=other.last)
        assert (model.hidden(codes, last, span) - first).abs().amax(-1).min() > 1e-3


def test_it_fits_numbers_of_levels():
    fsq = FSQ(replace(tiny_fsq(), size=(8, 16), levels=(5, 3)))
    found = tiny().fitted(fsq, Reads(3))
    assert (found.grid, found.vocab, found.channels, found.classes) == ((2, 4), 15, 0, 3)
