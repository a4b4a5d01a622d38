"""The bitwise head against the categorical one over two values, bit by bit."""

import math

import pytest
import torch
from torch.nn import functional as F

from smalti.codes import TokenSpec
from smalti.heads.bitwise import BitwiseHead
from smalti.heads.categorical import CategoricalHead
from smalti.heads.depth import DepthHead
from smalti.heads.of_codes import head_of
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise, SlotNoise

DIM, BITS, SLOTS = 6, 5, torch.arange(4)


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = BitwiseHead(DIM, BITS, bias=True)
    torch.nn.init.normal_(head.proj.bias)
    return head


def chance(batch, filters=Filters(), guidance=1.0):  # noqa: B008
    noise = SlotNoise(Noise.request(3, batch), SLOTS)
    return Chance(Guidance(guidance).at(0, 1), noise, filters)


def test_the_loss_is_a_sum_over_bits(head):
    h, codes = torch.randn(2, 4, DIM), torch.randint(0, 2, (2, 4, BITS))
    both = torch.stack((torch.zeros(2, 4, BITS), head.logits(h)), -1)
    nats = F.cross_entropy(both.flatten(0, 2), codes.flatten(), reduction="none")
    torch.testing.assert_close(head.loss(h, codes), nats.view(2, 4, BITS).sum(-1))
    head.smoothing = 0.2
    smooth = F.cross_entropy(
        both.flatten(0, 2), codes.flatten(), reduction="none", label_smoothing=0.2
    )
    torch.testing.assert_close(head.loss(h, codes), smooth.view(2, 4, BITS).sum(-1))
    torch.testing.assert_close(head.eval().loss(h, codes), nats.view(2, 4, BITS).sum(-1))


def test_bits_are_drawn_as_often_as_they_are_likely(head):
    h = torch.randn(1, 1, DIM).expand(4000, 4, DIM)
    drawn = head.sample(h, chance(4000))
    share = drawn.codes.double().mean((0, 1))
    likely = head.logits(h[:1, 0])[0].sigmoid().double()
    assert drawn.codes.shape == (4000, 4, BITS)
    torch.testing.assert_close(share, likely, rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.logp, -head.loss(h, drawn.codes))


def test_temperature_and_top_p_are_of_each_bit(head):
    h = torch.randn(3, 4, DIM)
    greedy = (head.logits(h) > 0).long()
    assert torch.equal(head.sample(h, chance(3, Filters(temperature=0.0))).codes, greedy)
    assert torch.equal(head.sample(h, chance(3, Filters(top_k=1))).codes, greedy)
    sure = head.logits(h).abs().sigmoid() > 0.6
    drawn = head.sample(h, chance(3, Filters(top_p=0.6))).codes
    assert torch.equal(drawn[sure], greedy[sure])
    assert torch.equal(drawn, head.sample(h, chance(3, Filters(top_p=0.6))).codes)


def test_guidance_combines_logits(head):
    h = torch.randn(6, 4, DIM)  # three images, conditional and not
    drawn = head.sample(h, chance(3, Filters(temperature=0.0), guidance=3.0))
    with_cond, without = head.logits(h).chunk(2)
    assert torch.equal(drawn.codes, (without + 3 * (with_cond - without) > 0).long())


def test_broken_weights_have_no_likelihood(head):
    with torch.no_grad():
        head.proj.weight[0] = math.nan
    assert head.sample(torch.randn(2, 4, DIM), chance(2)).logp.isnan().all()


def test_which_head_draws_codes():
    grids = ((2, 2),)
    assert isinstance(head_of(TokenSpec(grids, 7), DIM), CategoricalHead)
    assert isinstance(head_of(TokenSpec(grids, 2, channels=7), DIM), BitwiseHead)
    assert isinstance(head_of(TokenSpec(grids, 7, 2), DIM), DepthHead)
    with pytest.raises(ValueError, match="numbers or bits"):
        head_of(TokenSpec(grids, 2, 2, 3), DIM)
    with pytest.raises(ValueError, match="bits must be at least 1, got 0"):
        BitwiseHead(DIM, 0)
