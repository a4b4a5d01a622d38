"""The depth head beside its definition, with every choice of tokens, layers and classifiers."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from smalti.heads.depth import DepthConfig, DepthHead
from smalti.nn.code_embedding import CodeVectors, DepthTable
from smalti.sampling.chance import Chance
from smalti.sampling.filters import Filters, RowFilters
from smalti.sampling.guidance import ClassifierFree, Unguided
from smalti.sampling.noise import Noise, SlotNoise

B, N, WIDTH = 2, 3, 12
SIZES = (5, 5, 5)
LLAMA = DepthConfig(layers=2, heads=2, dim=8, ffn_dim=16)
GPT = replace(LLAMA, block="gpt", positions=True, bias=True, sums=True)
HEADS = {
    "llama": (LLAMA, SIZES, DepthTable(SIZES[:-1], 8)),
    "rotary": (replace(LLAMA, rotary=True), SIZES, DepthTable(SIZES[:-1], 8)),
    "gpt": (GPT, SIZES, CodeVectors(3, 5, 6)),
    "shared": (replace(GPT, gelu="sigmoid"), SIZES, CodeVectors(3, 5, 6, shared=True)),
    "product": (replace(GPT, projected=True), SIZES, CodeVectors(3, 5, 8)),
    "last": (replace(GPT, sums=False), SIZES, CodeVectors(3, 5, 6)),
    "own": (replace(LLAMA, shared_classifier=False), (4, 2, 3), DepthTable((4, 2, 3), 8)),
    "one": (LLAMA, (5,), DepthTable((5,), 8)),
}


@pytest.fixture(params=HEADS)
def head(request) -> DepthHead:
    config, sizes, seen = HEADS[request.param]
    torch.manual_seed(0)
    head = DepthHead(sizes, config, seen, WIDTH).eval()
    for weight in (*head.parameters(), *head.buffers()):
        torch.nn.init.normal_(weight, std=0.4)
    return head


def hidden(batch: int) -> Tensor:
    return torch.randn(batch, N, WIDTH, generator=torch.Generator().manual_seed(1))


def chance(guide=None, filters=None) -> Chance:
    noise = SlotNoise(Noise.request(0, B), torch.arange(N))
    return Chance(guide or Unguided(), noise, filters or Filters())


def sizes_of(head: DepthHead) -> list[int]:
    return [part.proj.out_features for part in head.each()]


@pytest.mark.parametrize("projected", [False, True])
def test_products_between_equal_widths_are_there_if_that_is_asked_for(projected):
    config = replace(GPT, projected=projected)
    names = {
        n.split(".")[0] for n in DepthHead(SIZES, config, CodeVectors(3, 5, 8), 8).state_dict()
    }
    assert {"read", "into"} & names == ({"read", "into"} if projected else set())


@torch.no_grad()
def test_the_probabilities_of_all_stacks_add_up_to_one(head):
    codes = torch.tensor(list(product(*map(range, sizes_of(head)))))  # (V ** G, G)
    h = hidden(1)[:, :1].expand(len(codes), -1, -1)
    nats = head.loss(h, codes[:, None])
    torch.testing.assert_close((-nats).exp().sum(), torch.tensor(1.0))
    assert nats.std() > 0.1, "some stacks are likelier"


@torch.no_grad()
def test_drawing_is_one_softmax_after_another(head):
    """With guidance, and filters of each depth, beside logits that know the codes before."""
    depths = range(head.count)
    filters = Filters(tuple(0.9 + 0.1 * d for d in depths), tuple(3 - d for d in depths), 0.9)
    h = hidden(2 * B)
    drawn = head.sample(h, chance(ClassifierFree(2.5), filters))
    assert drawn.codes.shape == (B, N, head.count) and torch.equal(drawn.h, h)
    logp, numbers = torch.zeros(B, N), Noise.request(0, B).uniform(torch.arange(N), head.count)
    for d, both in enumerate(head.logits(h, drawn.codes.repeat(2, 1, 1))):
        cond, uncond = both.chunk(2)
        kept = filters.at(d, head.count)
        assert kept == Filters(0.9 + 0.1 * d, 3 - d, 0.9)
        chances = kept(uncond + 2.5 * (cond - uncond)).softmax(-1)
        before = (chances.cumsum(-1) <= numbers[..., d, None]).sum(-1)
        assert torch.equal(before, drawn.codes[..., d])
        logp += chances.gather(-1, before[..., None]).squeeze(-1).log()
    torch.testing.assert_close(drawn.logp, logp)
    rows = RowFilters.of([filters, Filters(0.8)])
    again = head.sample(h, chance(ClassifierFree(2.5), rows))
    assert torch.equal(again.codes[0], drawn.codes[0]), "each row by its own"
    alone = head.sample(h, chance(ClassifierFree(2.5), Filters(0.8)))
    assert torch.equal(again.codes[1], alone.codes[1])


@torch.no_grad()
def test_a_code_is_not_read_before_the_next(head):
    codes = torch.stack([torch.randint(v, (B, N)) for v in sizes_of(head)], -1)
    h = hidden(B)
    logits = head.logits(h, codes)
    for d, size in enumerate(sizes_of(head)):
        changed = codes.clone()
        changed[..., d] = (changed[..., d] + 1) % size
        moved = [(a - b).abs().max() for a, b in zip(head.logits(h, changed), logits, strict=True)]
        assert max(moved[: d + 1]) < 1e-5 and all(change > 1e-3 for change in moved[d + 1 :])


@torch.no_grad()
def test_the_first_loss_knows_nothing(head):
    head.init_weights()
    codes = torch.zeros(B, N, head.count, dtype=torch.long)
    nats = sum(map(math.log, sizes_of(head)))
    torch.testing.assert_close(head.loss(hidden(B), codes), torch.full((B, N), nats))


def test_depths_that_share_have_equal_sizes():
    with pytest.raises(ValueError, match="share a classifier must have equal sizes"):
        DepthHead((4, 2), LLAMA, DepthTable((4, 2), 8))
    with pytest.raises(ValueError, match="share a table must have equal sizes"):
        DepthTable((4, 2), 8, shared=True)
    with pytest.raises(ValueError, match="dim must be a multiple of heads"):
        DepthConfig(heads=3, dim=8)


def test_depths_turn_layers_that_can_turn_alone():
    for config in (GPT, replace(LLAMA, dim=6)):
        with pytest.raises(ValueError, match="rotary is for Llama's layers"):
            replace(config, rotary=True)
    plain, turned = (
        DepthHead(SIZES, replace(LLAMA, rotary=rotary), DepthTable(SIZES[:-1], 8), WIDTH)
        for rotary in (False, True)
    )
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    turned.load_state_dict(plain.state_dict())
    codes = torch.zeros(1, N, 3, dtype=torch.int64)
    first, last = (
        [mine.equal(other) for mine, other in zip(*both, strict=True)]
        for both in [(plain.logits(hidden(1), codes), turned.logits(hidden(1), codes))] * 2
    )
    assert first[0] and not last[-1]
