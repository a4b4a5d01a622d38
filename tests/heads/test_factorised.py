"""The factorised head beside its definition, for any number of groups."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from builders import build, generate, models, random_codes, random_cond
from smalti.codes import TokenSpec
from smalti.heads.factorised import FactorisedHead
from smalti.models.open_magvit2 import OpenMAGVIT2, OpenMAGVIT2Config, tiny
from smalti.nn.groups import Groups
from smalti.sampling import noise as noises
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import ClassifierFree, Further, Guidance, Projected, Unguided
from smalti.sampling.noise import Noise, SlotNoise

GROUPS = [(5,), (2, 3), (1, 2, 2), (1, 1, 1, 1, 1)]
B, N = 3, 4


def head_of(groups: tuple[int, ...], **more) -> tuple[FactorisedHead, OpenMAGVIT2Config]:
    config = replace(tiny(), groups=groups, channels=sum(groups))
    torch.manual_seed(0)
    spec = Groups(config.spec, groups)
    head = FactorisedHead(spec, config, layers=2, **more).eval()
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return head, config


def hidden(config: OpenMAGVIT2Config, batch: int = B) -> Tensor:
    return torch.randn(batch, N, config.dim, generator=torch.Generator().manual_seed(1))


def chance(batch: int, guide=None, filters=None, seed: int = 0) -> Chance:
    noise = SlotNoise(Noise.request(seed, batch), torch.arange(N))
    return Chance(guide or Unguided(), noise, filters or Filters())


@pytest.mark.parametrize("groups", GROUPS)
@torch.no_grad()
def test_the_probabilities_of_all_codes_add_up_to_one(groups):
    head, config = head_of(groups)
    h = hidden(config, 1)
    codes = torch.tensor(list(product((0, 1), repeat=5)))  # (32, 5)
    rows = h.expand(len(codes), -1, -1)
    nats = head.loss(rows, codes[:, None].expand(-1, N, -1))  # (32, N)
    torch.testing.assert_close((-nats).exp().sum(0), torch.ones(N))
    assert nats.std(0).min() > 0.1, "some codes are likelier"


@pytest.mark.parametrize("groups", GROUPS)
@torch.no_grad()
def test_the_loss_is_that_of_each_group_given_those_before_it(groups):
    head, config = head_of(groups)
    h, codes = hidden(config), random_codes(TokenSpec(((2, 2),), 2, channels=5), B)
    logits, ids = head.logits(h, codes), head.groups.split(codes)
    picked = [
        x.log_softmax(-1).gather(-1, i[..., None]).squeeze(-1)
        for x, i in zip(logits, ids.unbind(-1), strict=True)
    ]
    torch.testing.assert_close(head.loss(h, codes), -sum(picked))
    begin = 0
    for g, width in enumerate(groups):  # its own bits and those behind it are not read
        changed = torch.cat((codes[..., :begin], 1 - codes[..., begin:]), -1)
        again = head.logits(h, changed)
        torch.testing.assert_close(again[g], logits[g])
        if begin:
            first = torch.cat((1 - codes[..., :1], codes[..., 1:]), -1)
            assert (head.logits(h, first)[g] - logits[g]).abs().max() > 1e-3
        begin += width


@pytest.mark.parametrize("groups", GROUPS)
@torch.no_grad()
def test_drawing_is_one_softmax_after_another(groups):
    """With guidance and filters, beside logits that know all groups before."""
    head, config = head_of(groups)
    h, filters = hidden(config, 2 * B), Filters(0.9, top_k=3, top_p=0.9)
    drawn = head.sample(h, chance(B, ClassifierFree(2.5), filters))
    assert drawn.codes.shape == (B, N, 5) and torch.equal(drawn.h, h)
    ids, logp = head.groups.split(drawn.codes), torch.zeros(B, N)
    numbers = Noise.request(0, B).uniform(torch.arange(N), len(groups))
    for g, both in enumerate(head.logits(h, drawn.codes.repeat(2, 1, 1))):
        cond, uncond = both.chunk(2)
        chances = filters(uncond + 2.5 * (cond - uncond)).softmax(-1)
        before = (chances.cumsum(-1) <= numbers[..., g, None]).sum(-1)
        assert torch.equal(before, ids[..., g])
        logp += chances.gather(-1, ids[..., g, None]).squeeze(-1).log()
    torch.testing.assert_close(drawn.logp, logp)


@torch.no_grad()
@pytest.mark.parametrize("groups", [(3, 2), (2, 3), (1, 2, 2), (2, 3, 2), (3, 3)])
def test_no_group_races_with_the_numbers_of_another(groups, monkeypatch):
    """Else one would decide what another draws."""
    raced, numbers = list[range](), noises.hashed

    def looked(keys: Tensor, width: int, first: int = 0) -> Tensor:
        raced.append(range(first, first + width))
        return numbers(keys, width, first)

    monkeypatch.setattr(noises, "hashed", looked)
    head, config = head_of(groups)
    noise = SlotNoise(Noise.request(0, B), torch.arange(N), by=noises.racing)
    head.sample(hidden(config), Chance(Unguided(), noise, Filters()))
    assert [len(some) for some in raced] == [1 << bits for bits in groups]
    assert len({i for some in raced for i in some}) == sum(1 << bits for bits in groups)
    if list(groups) == sorted(groups):  # as the pictures of published ones are drawn
        assert [some.start for some in raced] == [g << bits for g, bits in enumerate(groups)]


def test_no_depth_races_with_the_numbers_of_another(monkeypatch):
    """DnD draws the depths of a position one after another as well."""
    raced, numbers = list[range](), noises.hashed

    def looked(keys: Tensor, width: int, first: int = 0) -> Tensor:
        raced.append(range(first, first + width))
        return numbers(keys, width, first)

    monkeypatch.setattr(noises, "hashed", looked)
    model = build(*models()["dnd"])
    generate(model, random_cond(model, 1), Noise.request(0, 1))
    vocab, depth = model.spec.vocab, model.spec.depth
    assert [some.start for some in raced[:depth]] == [d * vocab for d in range(depth)] != [0]


def test_each_group_has_its_own_guidance_and_temperature():
    """Ratios 1 and 0.5 of guidance 3 are guidances 3 and 2; so are temperatures."""
    head, config = head_of((2, 3), guidance=(1.0, 0.5), temperature=(1.0, 0.8))
    h, filters = hidden(config, 2 * B), Filters(0.9)
    drawn = head.sample(h, chance(B, ClassifierFree(3.0), filters))
    ids, logp = head.groups.split(drawn.codes), torch.zeros(B, N)
    both = head.logits(h, drawn.codes.repeat(2, 1, 1))
    for g, (scale, temperature) in enumerate(((3.0, 0.9), (2.0, 0.72))):
        cond, uncond = both[g].chunk(2)
        chances = ((uncond + scale * (cond - uncond)) / temperature).log_softmax(-1)
        logp += chances.gather(-1, ids[..., g, None]).squeeze(-1)
    torch.testing.assert_close(drawn.logp, logp)
    alike, _ = head_of((2, 3))
    same = alike.sample(h, chance(B, ClassifierFree(3.0), filters))
    assert not torch.equal(same.logp, drawn.logp), "ratios matter"


@pytest.mark.parametrize("guide", [Unguided(), ClassifierFree(2.0), Projected(2.0, 0.5)])
def test_further_is_a_guide_at_another_scale(guide):
    pred = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    further = Further(guide, 1.5)
    assert further.clean is guide.clean and torch.equal(further.tile(pred), guide.tile(pred))
    if isinstance(guide, Unguided):
        wanted = pred
    else:
        wanted = replace(guide, scale=2.5).merge(pred)
    torch.testing.assert_close(further.merge(pred), wanted)


@torch.no_grad()
def test_the_first_loss_knows_nothing():
    head, config = head_of((2, 3))
    head.init_weights()
    codes = random_codes(TokenSpec(((2, 2),), 2, channels=5), B)
    expected = torch.full((B, N), 5 * math.log(2))
    torch.testing.assert_close(head.loss(hidden(config), codes), expected)


@torch.no_grad()
def test_numbers_are_drawn_as_their_bits_are():
    """The same weights over numbers below 32 and over five bits: the same codes, with the loop's
    numbers of each kind."""
    bits = build(OpenMAGVIT2, tiny())
    config = replace(tiny(), vocab=32, channels=0)
    numbers = build(OpenMAGVIT2, config)
    assert all(
        torch.equal(a, b) for a, b in zip(bits.parameters(), numbers.parameters(), strict=True)
    )
    cond, noise = random_cond(bits, 2), Noise.request(3, 2)
    drawn = generate(bits, cond, noise, Guidance(2.0))
    as_numbers = generate(numbers, cond, noise, Guidance(2.0))
    assert torch.equal(as_numbers, (drawn << torch.arange(5)).sum(-1))
    torch.testing.assert_close(bits.loss(drawn, cond), numbers.loss(as_numbers, cond))
