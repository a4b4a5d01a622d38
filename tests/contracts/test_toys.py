"""Toy systems through the shared machinery, which knows none of them: they train, draw, continue
known codes, are edited, stored, loaded and measured."""

import math
from dataclasses import replace

import pytest
import torch
import toys
from torch import Tensor

from builders import build, generate, random_codes, random_cond, stream
from small_systems import write_pictures
from smalti import load, modules
from smalti.codes import Cond
from smalti.config import read_json
from smalti.engine.step import Known
from smalti.eval.codebook import histograms, parts, unigram_bits
from smalti.eval.likelihood import likelihood
from smalti.recipes.base import DataConfig, GeneratorRecipe, TokenizerRecipe
from smalti.runs.run import train
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.train.objectives import LikelihoodConfig, ReconstructionConfig
from smalti.train.optim import OptimConfig
from smalti.train.settings import TrainConfig

DEPTH = toys.DepthConfig(
    grid=(4, 4), vocab=8, classes=5, layers=1, heads=2, dim=32, multiple_of=32, dropout=0.0, depth=3
)
MODELS = {
    "depth": (toys.DepthModel, DEPTH),
    "bits": (toys.DepthModel, replace(DEPTH, vocab=2, depth=0, channels=6)),
    "span": (toys.SpanModel, toys.SpanConfig()),
}


@pytest.fixture(params=MODELS)
def model(request):
    return build(*MODELS[request.param])


def batch_of(model, codes: Tensor) -> dict[str, Tensor]:
    rows = torch.arange(len(codes))
    return {
        "codes": codes,
        "labels": rows % model.reads.classes,
        "chance": torch.ones(len(codes)),
        "shuffle": rows,
    }


def test_training(model):
    """The loss falls on a fixed batch, and every parameter moves."""
    batch = batch_of(model, random_codes(model.spec, 4))
    objective = LikelihoodConfig(cond_dropout=0.0).objective(model.train(), None, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        (loss,) = objective(batch, step).totals.values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_drawing_guidance_and_known_codes(model):
    cond, noise = random_cond(model, 3), Noise.request(5, 3)
    steps = list(stream(model, cond, noise, Guidance(2.0)))
    codes = steps[-1].codes
    assert codes.shape == model.spec.shape(3) and codes.dtype == model.spec.empty(1).dtype
    assert len(steps) == len(model.blocks())
    assert not torch.equal(codes, generate(model, cond, noise))
    alone = generate(model, cond.rows(slice(1, 2)), Noise.request(5, 1, first=1), Guidance(2.0))
    torch.testing.assert_close(alone[0], codes[1], rtol=0, atol=1e-4)
    mask = torch.rand(3, model.spec.positions) < 0.5
    given = random_codes(model.spec, 3)
    out = generate(model, cond, noise, Guidance(2.0), known=Known(given, mask))
    assert torch.equal(out[mask], given[mask])
    assert not torch.equal(out[~mask], codes[~mask]), "the others react"


@pytest.mark.parametrize("name", ["depth", "bits"])
@torch.no_grad()
def test_log_probabilities_and_bits_count_every_code_of_a_position(name):
    model = build(*MODELS[name])
    cond, noise = random_cond(model, 3), Noise.request(5, 3)
    steps = list(stream(model, cond, noise))
    logp, codes = torch.cat([step.logp for step in steps], 1), steps[-1].codes
    torch.testing.assert_close(-logp, model.loss(codes, cond), rtol=0, atol=1e-4)
    measured = likelihood(model, [batch_of(model, codes) | {"labels": cond.labels}])
    nats = -logp.double().mean().item()
    assert measured["bits_per_token"] == pytest.approx(nats / math.log(2), rel=1e-5)
    assert measured["bits_per_image"] == pytest.approx(16 * nats / math.log(2), rel=1e-5)
    counts = histograms(codes, model.spec)
    depth, bits = math.prod(model.spec.trailing), name == "bits"
    joint = (1, 1, 2**depth) if bits else (1, depth, model.spec.vocab)
    assert counts.shape == joint and counts.sum() == codes.numel() // (depth if bits else 1)
    place = "bit" if bits else "depth"
    assert torch.equal(
        parts(counts, model.spec)[f"_{place}1"],
        torch.bincount(codes[..., 1].flatten(), minlength=model.spec.vocab),
    )
    even = unigram_bits(torch.zeros(depth, model.spec.vocab), codes)
    assert even == pytest.approx(model.spec.bits), "a position has as many bits as its codes"


@torch.inference_mode()
def test_a_span_is_refined_against_what_is_cached_and_written_once():
    model, written = build(*MODELS["span"]), []
    cache, update = model.cache(2), toys.KVCache.update

    class Watched(toys.KVCache):
        def update(self, layer, positions, reach, k, v, keep=True):
            written.append(keep)
            return update(self, layer, positions, reach, k, v, keep)

    cache.__class__ = Watched
    model.cache = lambda batch, spec=None: cache
    generate(model, random_cond(model, 2), Noise.request(5, 2))
    rounds = model.config.rounds
    assert written == [False] * rounds + [True] + [False] * rounds


@pytest.fixture
def registered(monkeypatch):
    """The two lines that a new tokenizer and a new model cost elsewhere."""
    bit = modules.Entry(toys.BitConfig, toys.BitTokenizer, toys.BitConfig)
    monkeypatch.setitem(modules.TOKENIZERS, "toy_bits", bit)
    depth = modules.Entry(toys.DepthConfig, toys.DepthModel, lambda: DEPTH)
    monkeypatch.setitem(modules.MODELS, "toy_depth", depth)


@pytest.mark.usefixtures("registered", "float32")
def test_from_pictures_to_pictures(tmp_path):
    """Train a bit tokenizer and a model of bits, draw, edit and measure, by recipes alone."""
    data = DataConfig(source=f"folder:{write_pictures(tmp_path / 'photos', 24, ('a', 'b'))}")
    short = TrainConfig(
        steps=6, batch=8, optim=OptimConfig(lr=1e-2, warmup=1), save_every=6, preview_every=6,
        precision="fp32", device="cpu",
    )  # fmt: skip
    goal = ReconstructionConfig(perceptual="none", gan_weight=0.0)
    recipe = TokenizerRecipe(data=data, model=toys.BitConfig(), objective=goal, train=short)
    report = train(recipe, tmp_path / "t")
    assert 0 < report["held_out_usage"] <= 1 and 0 <= report["held_out_usage_bit5"] <= 1
    model = replace(DEPTH, vocab=2, depth=0, channels=1)  # the codes decide
    generator = GeneratorRecipe(
        tokenizer=str(tmp_path / "t" / "tokenizer"), data=data, model=model, train=short
    )
    report = train(generator, tmp_path / "g")
    assert 0 < report["held_out_bits_per_token"] < 12, "of six bits"
    assert 0 < report["unigram_bits_per_token"] <= 6.5
    pipe = load(tmp_path / "g" / "pipeline")
    assert pipe.model.spec.channels == 6 and pipe.classes == ["a", "b"]
    images = pipe(classes=["b"], n=2, seed=3, guidance=2.0)
    assert [image.size for image in images] == [(16, 16)] * 2
    assert len(list(pipe.stream(n=1, every=8))) == 2
    mask = torch.zeros(16, 16)
    mask[:, 8:] = 255
    from PIL import Image

    painted = Image.fromarray(mask.byte().numpy())
    (edited,) = pipe.edit(images[0], painted, classes=["a"], n=1)
    assert edited.size == (16, 16)
    assert read_json(tmp_path / "g" / "pipeline" / "model" / "config.json")["type"] == "toy_depth"


def test_a_tokenizer_without_a_table_needs_no_care():
    tokenizer = build(toys.BitTokenizer, toys.BitConfig())
    goal = ReconstructionConfig(perceptual="none", gan_weight=0.0)
    objective = goal.objective(tokenizer, seed=0, steps=1)
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    logs = objective({"images": images}, 0).logs
    assert objective.care is None and 0 < logs["usage"] <= 1 and logs["loss"].isfinite()
    assert objective.advice({"usage": 0.0}) is None
    assert Cond(labels=torch.arange(2)).class_ids(9).tolist() == [0, 1]
