"""Losses of pictures and texts that belong together."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from smalti.models.towers import Towers, tiny
from smalti.train.contrastive import ContrastiveObjective
from smalti.train.optim import OptimConfig, adamw
from smalti.train.pairs import Captions, PairsConfig, equal, nearest, sigmoid_loss, softmax_loss
from smalti.train.parallel import World
from smalti.train.settings import TrainConfig
from smalti.train.trainer import Trainer

WAYS: dict[Any, Any] = {"clip": "softmax", "siglip": "sigmoid"}
"""Kinds of towers and the losses that they are published with."""


def objective(kind):
    torch.manual_seed(0)
    return PairsConfig(WAYS[kind]).objective(Towers(replace(tiny(), kind=kind)))


def pairs(count=8):
    """Pictures of a colour each, and ids that say its number; the last two have one text."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.randint(0, 256, (count, 3, 1, 1), generator=generator, dtype=torch.uint8)
    ids = torch.full((count, 8), 2)
    ids[:, 0], ids[:, 1] = torch.arange(count).clamp(max=count - 2) + 10, 1
    return {"images": colours.expand(-1, -1, 8, 8).contiguous(), "text_tokens": ids}


def slow(logits, same, loss):
    """Each pair in turn."""
    count, total = len(logits), 0.0
    counts = [[i == j or not same[i, j] for j in range(count)] for i in range(count)]
    for i in range(count):
        if loss == "sigmoid":
            terms = [F.logsigmoid(logits[i, j] * (1 if i == j else -1)) for j in range(count)]
            total -= sum(t for t, kept in zip(terms, counts[i], strict=True) if kept)
            continue
        for row in (logits[i], logits[:, i]):
            kept = torch.stack([row[j] for j in range(count) if counts[i][j]])
            total -= (row[i] - kept.logsumexp(0)) / 2
    return total / count


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_losses_are_sums_over_pairs(loss):
    logits = 3 * torch.randn(5, 5, dtype=torch.float64)
    same = equal(torch.tensor([[1, 2], [3, 4], [1, 2], [1, 5], [3, 4]]))
    measure = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}[loss]
    torch.testing.assert_close(measure(logits, same), slow(logits, same, loss))
    none = torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(measure(logits), slow(logits, none, loss))
    torch.testing.assert_close(measure(logits, none), measure(logits))


def test_an_equal_text_is_no_mistake():
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 1.0]])
    same = equal(torch.tensor([[7], [7], [8]]))
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert nearest(logits) == pytest.approx(1 / 3)
    assert nearest(logits, same) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", WAYS)
def test_the_loss_falls_and_pictures_find_their_texts(kind):
    goal, batch, seen = objective(kind), pairs(), []
    optimizer = adamw(goal.model, OptimConfig(lr=3e-3))
    for step in range(45):
        losses = goal(batch, step)
        losses.totals["model"].backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(losses.logs)
    assert seen[-1]["loss"] < seen[0]["loss"] / 2
    assert seen[0]["retrieval"] < 0.6 and seen[-1]["retrieval"] > 0.8


def test_the_scale_of_a_softmax_is_at_most_100():
    for kind, most in (("clip", 100.0), ("siglip", 8103.08)):
        goal = objective(kind)
        goal.model.scale.data.fill_(9.0)
        assert float(goal(pairs(), 0).logs["scale"]) == pytest.approx(most)


def test_a_sigmoid_needs_a_bias():
    with pytest.raises(ValueError, match="needs towers with a bias, those of model.kind siglip"):
        PairsConfig("sigmoid").objective(Towers(replace(tiny(), kind="clip")))
    assert PairsConfig("softmax").objective(Towers(tiny())).config.loss == "softmax"
    with pytest.raises(ValueError, match="loss must be one of softmax, sigmoid, got 'triplet'"):
        PairsConfig("triplet")  # pyright: ignore[reportArgumentType]


def found(goal, batch):
    """The loss of a batch and all gradients."""
    loss = goal(batch, 0).totals["model"]
    loss.backward()
    grads = {n: p.grad for n, p in goal.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()} | grads


def part(rank, where, out):
    """The loss and the mean gradients of two processes, each with half of a batch."""
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
    for kind in WAYS:
        half = {k: v[4 * rank : 4 * rank + 4] for k, v in pairs().items()}
        mine = found(objective(kind), half)
        for tensor in mine.values():
            dist.all_reduce(tensor)
            tensor /= 2
        if rank == 0:
            torch.save(mine, f"{out}-{kind}")
    dist.destroy_process_group()


@pytest.mark.multi
def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    where, out = tmp_path / "where", tmp_path / "found"
    spawn(part, (str(where), str(out)), nprocs=2)
    for kind in WAYS:
        whole, two = found(objective(kind), pairs()), torch.load(f"{out}-{kind}")
        assert two.keys() == whole.keys()
        assert abs(float(two["loss"] - whole["loss"])) < 1e-6
        for name, tensor in whole.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_parts_of_a_batch_are_refused_where_its_items_are_compared(tmp_path):
    assert Captions.compares and ContrastiveObjective.compares
    config = TrainConfig(batch=8, accumulate=2, device="cpu")
    batches: Any = None
    with pytest.raises(ValueError, match="train.accumulate must be 1 where .* got 2: take"):
        Trainer(objective("clip"), batches, config, tmp_path, World(0, 1, torch.device("cpu")))
