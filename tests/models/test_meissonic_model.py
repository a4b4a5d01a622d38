"""What is special about Meissonic: texts as a whole, what modulates it, compression, steps that are
left, grids of other sizes."""

from dataclasses import replace

import pytest
import torch

from builders import build, generate, random_codes, random_cond, texts
from smalti.codes import Cond, Reads, TokenSpec, Turn
from smalti.models import meissonic
from smalti.models.meissonic import Meissonic, MeissonicConfig
from smalti.models.meissonic_layers import places, sinusoid
from smalti.recipes.meissonic import emoji_meissonic
from smalti.recipes.meissonic import meissonic as published
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal
from smalti.tokenizers import vqgan
from smalti.tokenizers.vqgan import VQGAN

TINY = meissonic.tiny()
POOLED = replace(TINY, pooled=7, word_dim=9, clock="steps", guided=2.0)


def parameters(config: MeissonicConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Meissonic(config).parameters())


def test_sizes():
    assert parameters(published().model) == pytest.approx(1.0e9, rel=0.02)
    assert parameters(emoji_meissonic().model) == pytest.approx(1.97e6, rel=0.05)


def test_sinusoids_have_cosines_first():
    found = sinusoid(torch.tensor([0.0, 2.0]))
    assert found[0].tolist() == [1.0] * 128 + [0.0] * 128
    steps = torch.arange(128) / 128
    angles = 2.0 / 10000**steps
    torch.testing.assert_close(found[1], torch.cat((angles.cos(), angles.sin())))


def test_places_are_rows_and_columns():
    assert places((2, 3)).tolist() == [[0, r, c] for r in range(2) for c in range(3)]


@torch.no_grad()
def test_the_last_feature_is_the_whole_text_or_a_word():
    """As a word it can be masked; as the whole text it is not attended to, and never masked."""
    model, cond = build(Meissonic, POOLED), random_cond(build(Meissonic, POOLED), 2)
    words, mask, whole = model.texts(cond)
    assert words.shape == (2, 5, 9) and mask.shape == (2, 5) and whole.shape == (2, 7)
    assert cond.text is not None and torch.equal(whole, cond.text[:, -1, :7])
    plain = build(Meissonic, TINY)
    words, mask, whole = plain.texts(cond)
    assert words.shape == (2, 6, 12)
    for row in range(2):
        mean = words[row][mask[row]].mean(0)
        torch.testing.assert_close(whole[row], mean)


@torch.no_grad()
def test_words_that_are_no_words_are_not_read():
    model, codes = build(Meissonic, TINY), random_codes(TINY.spec, 2)
    cond = random_cond(model, 2)
    assert cond.text is not None and cond.text_mask is not None
    noisy = cond.text + (~cond.text_mask[..., None]) * torch.randn(2, 6, 12)
    loss = model.loss(codes, Cond(text=noisy, text_mask=cond.text_mask))
    torch.testing.assert_close(loss, model.loss(codes, cond))


@torch.no_grad()
def test_words_have_no_places():
    """They are not turned, so that their order says nothing but what their features say."""
    model, codes = build(Meissonic, POOLED), random_codes(TINY.spec, 2)
    text = torch.randn(2, 6, 12)
    mask = torch.ones(2, 6, dtype=torch.bool)
    other = text[:, [3, 0, 4, 1, 2, 5]]
    loss = model.loss(codes, Cond(text=text, text_mask=mask))
    torch.testing.assert_close(model.loss(codes, Cond(text=other, text_mask=mask)), loss)
    other = text[:, [5, 0, 1, 2, 3, 4]]  # another feature is the whole text
    assert (model.loss(codes, Cond(text=other, text_mask=mask)) - loss).abs().max() > 1e-3


@torch.no_grad()
def test_micro_conditions_are_those_of_the_picture():
    model = build(Meissonic, replace(TINY, factor=16, beauty=5.5))
    assert model.micro((4, 6)).tolist() == [[96.0, 64.0, 0.0, 0.0, 5.5]]
    codes, cond = random_codes(TINY.spec, 2), random_cond(model, 2)
    losses = [model.loss(codes, cond)]
    for change in ({"factor": 8}, {"beauty": 1.0}):
        model.config = replace(model.config, **change)
        losses.append(model.loss(codes, cond))
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(losses, losses[1:], strict=False))


@torch.no_grad()
def test_clocks():
    known = torch.tensor([[True] * 12 + [False] * 4, [False] * 16])
    share, steps = build(Meissonic, TINY), build(Meissonic, POOLED)
    training, drawing = Turn(known, None, 16), Turn(known, None, 16, left=3)
    assert share.time(training).tolist() == share.time(drawing).tolist() == [0.25, 1.0]
    assert steps.time(training).tolist() == [250.0, 1000.0]
    assert steps.time(drawing).tolist() == [3]
    rows = drawing._replace(left=torch.tensor([3, 7]))
    assert steps.time(rows).tolist() == [3, 7]


@torch.no_grad()
def test_rows_with_other_steps_left_give_what_each_gives_alone():
    model, codes = build(Meissonic, POOLED), random_codes(TINY.spec, 2)
    cond, known = random_cond(model, 2), torch.rand(2, 16) < 0.5
    both = model.prepare(cond)
    turn = Turn(known, None, 16, left=torch.tensor([1, 9]))
    together = model.hidden(codes, both, turn)
    for i, left in enumerate((1, 9)):
        row = slice(i, i + 1)
        one = Turn(known[row], None, 16, left=left)
        alone = model.hidden(codes[row], both.rows(torch.tensor([i])), one)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)
    same = model.hidden(codes, both, turn._replace(left=1))
    assert (same[1] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("compress", [True, False])
@torch.no_grad()
def test_other_grids(compress):
    model = build(Meissonic, replace(TINY, compress=compress))
    cond, spec = random_cond(model, 2), TokenSpec(((2, 6),), 32)
    drawn = generate(model, cond, Noise.request(0, 2), spec=spec, reveal=Reveal(3, "meissonic"))
    assert drawn.shape == (2, 12)
    assert model.prepare(cond, spec).rotation.shape == (1, 6 + (3 if compress else 12), 8)


def test_odd_grids_cannot_be_compressed():
    message = r"with compress both sides of grid must be even, got \(3, 4\)"
    with pytest.raises(ValueError, match=message):
        replace(TINY, grid=(3, 4))
    with pytest.raises(ValueError, match=message):
        Meissonic(TINY).draws(TokenSpec(((3, 4),), 32))
    assert replace(TINY, grid=(3, 4), compress=False).spec.positions == 12


def test_it_is_fitted_to_a_tokenizer():
    codes = VQGAN(replace(vqgan.tiny(), size=(24, 16)))
    found = TINY.fitted(codes, Reads(0, 9, 20))
    assert found == replace(TINY, grid=(6, 4), text_length=9, text_dim=20)
    with pytest.raises(ValueError, match="Meissonic draws from texts: take a recipe with a text"):
        TINY.fitted(codes, Reads(classes=3))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"dim": 48}, r"dim must be heads 2 times the sum of axes \(4, 6, 6\), got 48"),
        ({"axes": (4, 5, 7)}, r"axes must be three even positive numbers, got \(4, 5, 7\)"),
        ({"pooled": 13}, "word_dim and pooled must be at most text_dim 12, got 0 and 13"),
        ({"pooled": 3, "text_length": 1}, "text_length must be 2 or more with pooled, got 1"),
        ({"factor": 0}, "factor must be at least 1, got 0"),
        ({"joint_layers": -1}, "joint_layers must be 0 or more, got -1"),
        ({"dropout": 1.0}, "dropout must be"),
    ],
)
def test_bad_configs(bad, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **bad)


@pytest.mark.parametrize("learned", [False, True])
def test_no_text_is_an_empty_text_of_an_encoder_that_does_not_learn(learned):
    model, words = Meissonic(replace(TINY, text_length=12, text_dim=16)), build(*texts()["bytes"])
    words.learned, before = learned, model.null.clone()
    model.learn_text(words)
    empty, _ = words(words.tokenize([""]))
    assert torch.equal(model.null, before if learned else empty[0])


def test_a_text_is_needed():
    with pytest.raises(ValueError, match="this model is text-conditional: give text and text_mask"):
        Meissonic(TINY).prepare(Cond(labels=torch.tensor([1])))


def test_positions_of_one_stream_alone_are_a_model():
    model = build(Meissonic, replace(TINY, joint_layers=0))
    assert model.loss(random_codes(TINY.spec, 2), random_cond(model, 2)).isfinite().all()
