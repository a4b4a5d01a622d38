"""TiTok's generators and tokens without places: how codes are drawn, and what cannot be."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from builders import build, stream
from smalti.codes import Cond, Known, Turn
from smalti.models import llamagen, titok
from smalti.models.titok import TiTokGenerator
from smalti.pipeline.editing import edit
from smalti.pipeline.pipeline import Pipeline
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance, Unguided
from smalti.sampling.noise import Noise, SlotNoise
from smalti.sampling.reveal import Reveal
from smalti.tokenizers import titok as tokens
from smalti.tokenizers.titok import TiTok

MODEL = build(TiTokGenerator, titok.tiny())
COND = Cond(labels=torch.tensor([1, 4]))


def drawn(model, doubt, filters=Filters()):  # noqa: B008 - frozen
    """A draw of all positions, none of which is known, and the logits that it is of."""
    known = torch.zeros(2, 12, dtype=torch.bool)
    turn = Turn(known, None, 0, doubt=doubt)
    noise = SlotNoise(Noise.request(1, 2), torch.arange(12))
    with torch.no_grad():
        prepared = model.prepare(COND)
        found = model.draw(known.long(), prepared, turn, None, Chance(Unguided(), noise, filters))
        return found, model.head.logits(model.hidden(known.long(), prepared, turn))


def test_codes_are_drawn_at_the_temperature_of_the_noise():
    plain, logits = drawn(MODEL, None)
    assert plain.sure is None
    torch.testing.assert_close(plain.logp, chosen(logits.log_softmax(-1), plain.codes))
    for doubt, temperature in ((3.0, 1.0), (0.5, 2.0), (torch.tensor([3.0, 0.2]), 1.0)):
        found, _ = drawn(MODEL, doubt, Filters(temperature))
        heat = temperature * torch.as_tensor(doubt).expand(2)[:, None, None]
        torch.testing.assert_close(found.logp, chosen((logits / heat).log_softmax(-1), found.codes))
        torch.testing.assert_close(found.sure, chosen(logits, found.codes) / temperature)
    last, _ = drawn(MODEL, 0.0)
    assert torch.equal(last.codes, logits.argmax(-1)), "the last codes are the likeliest"


def chosen(values, codes):
    return values.gather(-1, codes.unsqueeze(-1)).squeeze(-1)


def test_the_surest_logits_are_kept():
    """Without noise the first step keeps the positions whose largest logits are largest."""
    noise = Noise.request(1, 2)
    first = next(stream(MODEL, COND, noise, reveal=Reveal(2, "0.5,0", confidence=0.0)))
    _, logits = drawn(MODEL, 0.0)
    best = logits.amax(-1).topk(6, -1).indices.sort(-1).values
    assert torch.equal(first.ready.nonzero()[:, 1].view(2, 6), best)


def test_an_order_draws_at_the_temperature_that_is_asked_for():
    request = {"orders": torch.arange(12), "reveal": Reveal(12, "linear")}
    *_, last = stream(MODEL, COND, Noise.request(1, 2), **request)
    *_, cold = stream(
        MODEL, COND, Noise.request(1, 2), Guidance(), Filters(temperature=0.0), **request
    )
    assert not torch.equal(last.codes, cold.codes)


def test_the_second_half_of_a_uvit_is_shown_the_first():
    model = build(TiTokGenerator, replace(titok.tiny(), network="uvit", layers=4))
    x = torch.randn(1, 13, 32)
    with torch.no_grad():
        before = model.trunk(x)
        model.trunk.second[-1].join.weight[:, 32:] = 0  # what the first layer gave
        assert (model.trunk(x) - before).abs().max() > 1e-3
    with pytest.raises(ValueError, match="layers of a uvit must be even, got 3"):
        replace(titok.tiny(), network="uvit", layers=3)


def test_shown_codes_count_in_training():
    model = build(TiTokGenerator, titok.tiny())
    codes, known = torch.arange(24).view(2, 12), torch.arange(12).expand(2, -1) < 4
    held_out = model.loss(codes, COND, known)
    assert not held_out[known].any()
    model.train().known_weight = 0.1
    learned = model.loss(codes, COND, known)
    h = model.hidden(codes, model.prepare(COND), Turn(known, None, 12))
    nats = F.cross_entropy(model.head.logits(h).mT, codes, reduction="none")
    torch.testing.assert_close(learned[known], 0.1 * nats[known])
    torch.testing.assert_close(learned[~known], held_out[~known])


@pytest.fixture(scope="module")
def pipe():
    tokenizer = build(TiTok, tokens.tiny())
    model = build(llamagen.LlamaGen, replace(llamagen.tiny(), grid=(1, 6)))
    return Pipeline(tokenizer, model)


def test_tokens_have_no_places(pipe):
    picture = pipe(classes=[1])[0]
    why = "needs codes with places in the picture, which the 6 tokens of a TiTok do not have"
    for mask, extend in ((picture, None), (None, {"left": 4})):
        with pytest.raises(ValueError, match=f"^an edit {why}$"):
            edit(pipe, picture, mask, extend=extend)
    with pytest.raises(ValueError, match=f"^a picture on the way {why}$"):
        next(pipe.stream(classes=[1], every=2))
    (whole,) = pipe.stream(classes=[1])
    assert whole.images[0].tobytes() == picture.tobytes()
    assert whole.step == whole.total == 6


def test_known_tokens_are_kept(pipe):
    codes = torch.tensor([[3, 0, 0, 7, 0, 0]])
    known = Known(codes, codes > 0)
    found = pipe.codes([1], known=known)
    assert torch.equal(found[codes > 0], codes[codes > 0])


def test_a_row_of_positions_is_told_apart(pipe):
    """2-D RoPE knows the positions of one row by half of its angles."""
    model, cond = pipe.model, Cond(labels=torch.tensor([1]))
    given = torch.tensor([[3, 5, 7, 9, 11, 2]])
    other = given[:, [1, 0, 2, 3, 4, 5]]
    a, b = (model.loss(codes, cond)[0, -1] for codes in (given, other))
    assert (a - b).abs() > 1e-4
