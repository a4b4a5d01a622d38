"""DnD: where codes are predicted, what layers above read, guidance and filters of each depth."""

from dataclasses import replace

import pytest
import torch

import close
from builders import build, generate, random_codes, random_cond, stream
from smalti.codes import Reads, Span
from smalti.engine.step import Known
from smalti.models.dnd import SIZES, DnD, DnDConfig, tiny
from smalti.modules import TOKENIZERS
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise

DEEP = replace(tiny(), layers=5, depth=3, at=(1, 2, 4), grid=(2, 3))


@pytest.mark.parametrize(
    ("layers", "depth", "places"),
    [(4, 4, (0, 1, 2, 3)), (8, 4, (4, 5, 6, 7)), (48, 8, (26, 29, 32, 35, 38, 41, 44, 47)),
     (12, 1, (11,)), (5, 2, (3, 4))],
)  # fmt: skip
def test_codes_are_spread_over_the_upper_half_of_the_layers(layers, depth, places):
    assert DnDConfig(layers=layers, depth=depth).places == places


def test_published_sizes():
    for name, settings in SIZES.items():
        config = DnDConfig(**settings)
        assert config.places == config.at and len(config.at) == 2, name
    with torch.device("meta"):
        count = sum(p.numel() for p in DnD(DnDConfig(**SIZES["XXL"])).parameters())
    llama, head = 1_410_972_672, 1536 * 16384  # of LlamaGen XXL; a second classifier
    assert count == llama + head + 1536


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"at": (0,)}, r"at must be \(\) or 2 layers in ascending order, the last of them 2, got"),
        ({"at": (2, 1)}, "at must be"),
        ({"at": (0, 3)}, "at must be"),
        ({"at": (2, 2)}, "at must be"),
        ({"at": (-1, 2)}, "at must be"),
        ({"depth": 4}, "depth must be at most layers 3, got 4"),
        ({"depth": 0}, "depth must be"),
        ({"vocab": 1}, "vocab must be"),
        ({"classes": 0}, "a model has either classes or a text"),
        ({"heads": 3}, r"dim must be a multiple of 4 \* heads"),
        ({"kv_heads": 3}, "kv_heads must divide heads 2, got 3"),
    ],
)
def test_settings_that_cannot_be(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(tiny(), **changes)


def test_a_tokenizer_of_another_depth_spreads_the_codes_anew():
    item = TOKENIZERS["rq_vae"]
    codes = item.module(replace(item.tiny(), depth=3))
    fitted = replace(DEEP, depth=2, at=(0, 4)).fitted(codes, Reads(classes=3))
    assert (fitted.depth, fitted.at, fitted.spec) == (3, (), codes.spec)
    assert DEEP.fitted(codes, Reads(classes=3)).at == (1, 2, 4)
    plain = TOKENIZERS["vqgan"]
    with pytest.raises(ValueError, match="DnD predicts a stack of codes at each position, but"):
        DEEP.fitted(plain.module(plain.tiny()), Reads(classes=3))


@torch.no_grad()
def test_a_depth_reads_the_codes_below_it_and_no_others():
    model = build(DnD, DEEP)
    codes, cond = random_codes(model.spec, 2), model.prepare(random_cond(model, 2))
    whole = Span.whole(model.spec.positions)
    before = model.logits(codes, cond, whole)
    for d in range(3):
        changed = codes.clone()
        changed[:, -1, d] = (codes[:, -1, d] + 1) % model.spec.vocab
        after = model.logits(changed, cond, whole)
        for other in range(3):
            apart = (after[other] - before[other]).abs().amax((0, 2))
            assert not apart[:-1].any(), "the last position is read by no other"
            assert (apart[-1] > 1e-3) == (other > d)


@torch.no_grad()
def test_layers_above_read_the_drawn_codes_of_earlier_positions():
    """Beside what the first layer reads of them: without the sum there, positions still differ."""
    model = build(DnD, DEEP)
    codes, cond = random_codes(model.spec, 2), model.prepare(random_cond(model, 2))
    whole = Span.whole(model.spec.positions)
    other = codes.clone()
    other[:, 0, 0] = (codes[:, 0, 0] + 1) % model.spec.vocab
    model.rows = lambda _, prefix, span: type(model).rows(model, codes, prefix, span)
    before, after = (model.logits(c, cond, whole) for c in (codes, other))
    apart = [(b - a).abs().amax((0, 2)) for a, b in zip(before, after, strict=True)]
    assert not apart[0].any(), "the lowest layers have no drawn codes"
    assert (apart[1] > 1e-4).all() and (apart[2] > 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_the_first_code_is_predicted_from_the_hidden_states(shared):
    model = build(DnD, replace(DEEP, shared_heads=shared))
    assert len(model.head.parts) == (1 if shared else 3)
    codes, cond = random_codes(model.spec, 2), model.prepare(random_cond(model, 2))
    whole = Span.whole(model.spec.positions)
    h = model.hidden(codes, cond, whole)
    close.values(model.head.at(0).logits(h), model.logits(codes, cond, whole)[0], model)


@torch.no_grad()
def test_guidance_leads_each_depth_before_its_code_goes_on():
    """With given codes, the probabilities of a step are those of guided logits, both branches of
    which have read the same codes."""
    model, scale = build(DnD, DEEP), 2.5
    cond, codes = random_cond(model, 2), random_codes(model.spec, 2)
    greedy = Filters(top_k=1)
    known = Known(codes, torch.arange(6).expand(2, -1) < 5)
    *_, last = stream(model, cond, Noise.request(0, 2), Guidance(scale), greedy, known)
    whole = Span.whole(6)
    both = [model.logits(last.codes, model.prepare(c), whole) for c in (cond, cond.null())]
    for d, (c, u) in enumerate(zip(*both, strict=True)):
        assert torch.equal((u + scale * (c - u))[:, -1].argmax(-1), last.codes[:, -1, d])


def test_filters_of_each_depth():
    model = build(DnD, DEEP)
    cond, noise = random_cond(model, 2), Noise.request(0, 2)
    greedy = generate(model, cond, noise, filters=Filters(top_k=1))
    first = generate(model, cond, noise, filters=Filters(top_k=(1, 0, 0)))
    assert torch.equal(first[:, 0, 0], greedy[:, 0, 0])
    assert not torch.equal(first, greedy)
    with pytest.raises(ValueError, match="top_k must be one value, or one for each of the 3 codes"):
        generate(model, cond, noise, filters=Filters(top_k=(1, 0)))


@torch.no_grad()
def test_texts_as_prefix_and_an_order():
    """Drawing agrees with the loss where rows of a prefix stand before the first position."""
    settings = {"classes": 0, "text_length": 4, "text_dim": 6, "order": "spiral-in"}
    model = build(DnD, replace(DEEP, **settings))
    cond, given = random_cond(model, 2), random_codes(model.spec, 2, seed=1)
    mask = torch.tensor([False, True, False, True, True, False]).expand(2, -1)
    steps = list(stream(model, cond, Noise.request(0, 2), known=Known(given, mask)))
    codes, order = steps[-1].codes, model.order()
    logp = torch.cat([step.logp for step in steps], 1)  # in the order of drawing
    loss, new = model.loss(codes, cond)[:, order], ~mask[:, order]
    close.values(-logp[new], loss[new], model)
