"""A contrastive loss of pictures and captions, beside the losses of a tokenizer."""

from dataclasses import replace

import pytest
import torch
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from smalti.data.loader import Images
from smalti.data.open import open_source
from smalti.data.transforms import Transform
from smalti.text.byte_words import BytesConfig
from smalti.tokenizers.unitok import UniTok, tiny
from smalti.tokenizers.vqgan import VQGAN
from smalti.tokenizers.vqgan import tiny as plain
from smalti.train.codebook_care import CodebookConfig
from smalti.train.contrastive import ContrastiveConfig, contrastive_loss
from smalti.train.optim import OptimConfig, adamw

GOAL = ContrastiveConfig(
    perceptual="none",
    gan_weight=0.0,
    codebook=CodebookConfig(kmeans=False),
    text=BytesConfig(length=8, word=8, dim=16, layers=1, heads=2),
)


def objective(pairs="softmax"):
    torch.manual_seed(0)
    model = UniTok(replace(tiny(), size=(16, 16), features=16))
    return replace(GOAL, pairs=pairs).objective(model, 0, 100)


def pairs(goal, count=8):
    """Pictures of a colour each, and its number as a word."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.randint(0, 256, (count, 3, 1, 1), generator=generator, dtype=torch.uint8)
    texts = goal.reader.tokenize([f"colour {'abcdefghijklmnop'[i] * 3}" for i in range(count)])
    return {"images": colours.expand(-1, -1, 16, 16).contiguous(), "text_tokens": texts}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps"), [("softmax", 80), ("sigmoid", 160)])
def test_the_loss_falls_and_texts_find_their_pictures(kind, steps):
    goal = objective(kind)
    batch = pairs(goal)
    optimizers = [adamw(m, OptimConfig(lr=3e-3)) for m in goal.optimized().values()]
    seen = []
    for step in range(steps):
        losses = goal(batch, step)
        assert set(losses.totals) == set(goal.optimized()) == {"model", "text"}
        torch.stack(list(losses.totals.values())).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen.append(losses.logs)
    assert seen[-1]["loss"] < seen[0]["loss"] / 2
    assert seen[-1]["contrastive"] < seen[0]["contrastive"] / 2
    assert seen[0]["retrieval"] < 0.5 and seen[-1]["retrieval"] > 0.8


def test_the_loss_is_that_of_both_directions():
    a, b = (F.normalize(torch.randn(5, 4), dim=-1) for _ in range(2))
    scale = torch.tensor(3.0)
    found, share = contrastive_loss(a, b, scale, torch.ones(5, dtype=torch.bool))
    logits = 3 * a @ b.T
    wanted = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).mean() / 2
    torch.testing.assert_close(found, wanted)
    assert share == (logits.argmax(1) == torch.arange(5)).float().mean()


def test_pairs_may_be_judged_alone():
    a, b = (F.normalize(torch.randn(5, 4), dim=-1) for _ in range(2))
    scale, bias, given = torch.tensor(3.0), torch.tensor(-2.0), torch.ones(5, dtype=torch.bool)
    found, share = contrastive_loss(a, b, scale, given, bias)
    logits = 3 * a @ b.T - 2
    right = torch.eye(5).bool()
    chances = logits.sigmoid().where(right, 1 - logits.sigmoid())
    torch.testing.assert_close(found, -chances.log().sum() / 5)
    assert share == (logits.argmax(1) == torch.arange(5)).float().mean()
    nothing, _ = contrastive_loss(a, b, scale, ~given, bias)
    assert nothing == 0
    tower = objective("sigmoid").tower
    assert tower.bias is not None and tower.bias.item() == -10
    assert tower.scale.exp().item() == pytest.approx(10)


def test_pictures_without_a_caption_have_no_part():
    a, b = (F.normalize(torch.randn(5, 4), dim=-1) for _ in range(2))
    given = torch.tensor([True, False, True, True, False])
    every = torch.ones(3, dtype=torch.bool)
    scale = torch.tensor(3.0)
    found, _ = contrastive_loss(a, b, scale, given)
    torch.testing.assert_close(found, contrastive_loss(a[given], b[given], scale, every)[0])
    nothing, share = contrastive_loss(a, b, scale, torch.zeros(5, dtype=torch.bool))
    assert nothing == 0 and share == 0


def test_the_scale_stays_within_its_range():
    goal = objective()
    goal.tower.scale.data.fill_(9.0)
    goal(pairs(goal), 0)
    assert float(goal.tower.scale.detach().exp()) == pytest.approx(100)


def test_a_tokenizer_without_features_is_refused():
    with pytest.raises(ValueError, match="a contrastive loss is of tokenizers with features"):
        GOAL.objective(UniTok(tiny()), 0, 100)
    with pytest.raises(ValueError, match="got a VQGAN of none"):
        GOAL.objective(VQGAN(plain()), 0, 100)


def test_batches_have_the_captions_of_their_pictures():
    goal, source = objective(), open_source("shapes:16")
    images = Images(source, range(16), Transform(16, "center", False), 4)
    assert "text_tokens" not in images.batch(0)
    images.tokenize = goal.reader.tokenize
    batch, names = images.batch(2), images.names(2)
    captions = {source.key(i): source.caption(i) for i in range(16)}
    wanted = goal.reader.tokenize([captions[name] for name in names])
    assert torch.equal(batch["text_tokens"], wanted) and (wanted >= 0).any()


def gradients(goal, batch):
    torch.stack(list(goal(batch, 0).totals.values())).sum().backward()
    return {n: p.grad for n, p in goal.named_parameters() if p.grad is not None}


def part(rank, where, out):
    """The mean gradients of two processes, each with half of a batch."""
    dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
    goal = objective()
    half = {k: v[4 * rank : 4 * rank + 4] for k, v in pairs(goal).items()}
    found = gradients(goal, half)
    for gradient in found.values():
        dist.all_reduce(gradient)
        gradient /= 2
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


@pytest.mark.multi
def test_two_processes_have_the_gradients_of_one(tmp_path):
    goal = objective()
    whole = gradients(goal, pairs(goal))
    where, out = tmp_path / "where", tmp_path / "gradients"
    spawn(part, (str(where), str(out)), nprocs=2)
    found = torch.load(out)
    assert found.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
