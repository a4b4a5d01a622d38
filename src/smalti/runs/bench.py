"""How fast pictures are drawn, learned, encoded and decoded, beside what the machine allows.

The limit on paper of a step is the longer of two times: that in which the memory reads the weights
once, and that in which the device does the products. Caches, activations and the launch of each
operator come on top, so no share is 1. Weights may be random: they decide no time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smalti.arguments import find
from smalti.codes import Cond
from smalti.config import did_you_mean
from smalti.devices import rates
from smalti.devices.named import cast, decoding_dtype, fast_bf16, fast_bf16_products
from smalti.engine import LOOPS, stream
from smalti.engine.step import Step
from smalti.loading import load_pipeline, load_tokenizer
from smalti.models.generator import Generator
from smalti.modules import MODELS, TOKENIZERS, module_of
from smalti.pipeline.coded import decoding, short
from smalti.pipeline.sampling import Sampling
from smalti.recipes import RECIPES
from smalti.recipes.base import GeneratorRecipe, TokenizerRecipe
from smalti.sampling.noise import Noise
from smalti.tokenizers.base import ImageTokenizer
from smalti.train.base import Objective, ObjectiveConfig
from smalti.train.masked_loss import MaskedConfig
from smalti.train.objectives import LikelihoodConfig
from smalti.train.optim import OptimConfig, adamw
from smalti.train.parallel import Precision, autocast, keep_freed_memory

GOALS: dict[str, ObjectiveConfig] = {"causal": LikelihoodConfig(), "masked": MaskedConfig()}
"""What models of each loop are trained by where no recipe says it."""


@dataclass(frozen=True)
class Row:
    """What was measured of one batch."""

    work: str
    """draw, train, encode or decode."""
    subject: str
    batch: int
    """Images."""
    dtype: str
    """Of weights; in training and decoding of products."""
    seconds: float
    """Of the whole batch."""
    passes: int
    """Steps in it: of drawing, else 1. Where a pass draws several codes ahead, passes."""
    measured: float
    """Share of the batch that was really done; the rest is its continuation."""
    operations: float
    """Of the batch, a multiplication and an addition as two."""
    bytes: float
    """Of weights that are read, once a step."""
    limit: float
    """Seconds on paper."""
    memory: int
    """Bytes, the most that the process, or the device, held meanwhile."""

    @property
    def images_per_s(self) -> float:
        return self.batch / self.seconds

    @property
    def share(self) -> float:
        """Of the limit that is reached."""
        return self.limit / self.seconds


@dataclass(frozen=True)
class Bench:
    """Where it is measured, and for how long."""

    device: torch.device
    dtype: torch.dtype | None = None
    """None: what is fast on the device."""
    seconds: float = 5.0
    """After so many a batch is left as it is, and its end is reckoned."""

    @property
    def drawn_in(self) -> torch.dtype:
        """The dtype of weights that draw."""
        return self.dtype or (torch.bfloat16 if fast_bf16(self.device) else torch.float32)

    @property
    def learned_in(self) -> torch.dtype:
        """The dtype of products in training. Raises ValueError for one that nothing trains in."""
        if self.dtype == torch.float16:
            raise ValueError("training multiplies in float32 or bfloat16, got --dtype float16")
        fast = torch.bfloat16 if fast_bf16_products(self.device) else torch.float32
        return self.dtype or fast

    def machine(self) -> dict[str, Any]:
        """What the machine is and can do, measured now."""
        device, dtypes = self.device, (torch.float32, torch.bfloat16)
        rate = {f"{short(t)}_gflops": rates.product_rate(device, t) / 1e9 for t in dtypes}
        return {
            "hardware": rates.hardware(device),
            "device": str(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "bandwidth_gb_per_s": rates.bandwidth(device) / 1e9,
            **rate,
        }

    def limit(self, bytes: float, operations: float, dtype: torch.dtype) -> float:
        """Seconds on paper of work that reads so much and multiplies so much."""
        reading = bytes / rates.bandwidth(self.device)
        return max(reading, operations / rates.product_rate(self.device, dtype))


# -- what is measured


@dataclass(frozen=True)
class Drawer:
    """A generator, and how it is drawn from and trained."""

    name: str
    model: Generator
    sampling: Sampling
    goal: ObjectiveConfig


def drawer(name: str, recipe: bool, device: torch.device) -> Drawer:
    """The generator of a pipeline, or a new one of a recipe. Raises ValueError if there is none."""
    if not recipe:
        pipe = load_pipeline(name, device, "float32")
        return Drawer(name, pipe.model, pipe.sampling, GOALS[pipe.model.loop])
    found = _recipe(name, GeneratorRecipe, "generators")
    model = _new(found.model, MODELS, device)
    return Drawer(name, model, found.sampling, found.objective)


def tokenizer_of(name: str, recipe: bool, device: torch.device) -> ImageTokenizer:
    """A tokenizer from its folder or a pipeline's, or a new one of a recipe."""
    if not recipe:
        return load_tokenizer(name, device).eval()
    return _new(_recipe(name, TokenizerRecipe, "tokenizers").model, TOKENIZERS, device)


def _recipe(name: str, kind: type[Any], what: str) -> Any:
    index = find(name.replace("-", "_"), list(RECIPES), "recipe")
    if index is None:
        near = did_you_mean(name, RECIPES)
        raise ValueError(f"{name!r} is no recipe{near or '; smalti train --help lists all'}")
    recipe = list(RECIPES.values())[index]()
    if not isinstance(recipe, kind):
        raise ValueError(
            f"this measures recipes of {what}, and {name} is a {type(recipe).__name__}"
        )
    return recipe


def _new(config: Any, among: Any, device: torch.device) -> Any:
    with device:
        module = module_of(config, among)
    getattr(module, "init_weights", lambda: None)()
    return module.eval()


# -- how


def draw(bench: Bench, of: Drawer, batch: int) -> Row:
    """Draw the codes of a batch as the sampling says, with guidance where it has some."""
    model, device, dtype = of.model.eval(), bench.device, bench.drawn_in
    cond = conditions(model, batch, device)
    operations = drawn_operations(model, of.sampling, cond)
    cast(model, dtype, model.FLOAT32)
    noise = Noise.request(0, batch, device=device)
    rates.forget_peak(device)
    took = timed(stream(model, of.sampling.request(model, cond, noise)), model, bench)
    bytes = step_bytes(model) * took.passes
    return Row(
        *("draw", of.name, batch, short(dtype), took.seconds, took.passes, took.share),
        *(operations, bytes, bench.limit(bytes, operations, dtype), rates.peak_memory(device)),
    )


def step_bytes(model: Generator) -> int:
    """Of the weights that a step of drawing reads. What modulates layers, causal models compute
    before, for many steps."""
    return rates.weight_bytes(model, "adaln." if model.loop == "causal" else None)


class Took(NamedTuple):
    seconds: float
    """Of all steps."""
    passes: int
    """Of the model, those that are reckoned among them."""
    share: float
    """How much of it was really done."""


def timed(steps: Iterator[Step], model: Generator, bench: Bench) -> Took:
    """Time the steps of a loop. After `Bench.seconds` they end, and what is left is reckoned to go
    on as fast as all but the first, which also prepares."""

    def done(step: Step) -> float:
        by_steps = model.loop == "masked"  # each of whose steps reads everything
        return step.done / step.total if by_steps else float(step.ready.float().mean())

    began = time.perf_counter()
    step = next(steps)
    rates.wait(bench.device)
    first, before, start = time.perf_counter(), done(step), step.done
    rest, share, made = 0.0, before, 1
    for step in steps:
        made += 1
        rates.wait(bench.device)
        rest, share = time.perf_counter() - first, done(step)
        if rest > bench.seconds and step.done > 2:
            break
    rest *= (1 - before) / (share - before) if share > before else 0
    # of a loop that draws ahead `done` and `total` count codes, of which a pass has several
    each = (step.done - start) / max(made - 1, 1)
    passes = 1 + round((step.total - start) / each) if each else 1
    return Took(first - began + rest, passes, share)


def conditions(model: Generator, batch: int, device: torch.device) -> Cond:
    """Classes in turn, or features of texts or codes of maps that are random numbers; first ids
    where a feature is an id."""
    reads = model.reads
    if reads.map:
        return Cond(map=torch.randint(reads.map.vocab, reads.map.shape(batch), device=device))
    if reads.classes:
        return Cond(labels=torch.arange(batch, device=device) % reads.classes)
    text = torch.randn(batch, reads.text_length, reads.text_dim, device=device)
    text = torch.zeros_like(text) if reads.text_vocab else text
    return Cond(text=text, text_mask=torch.ones(text.shape[:2], dtype=torch.bool, device=device))


@torch.no_grad()
def drawn_operations(model: Any, sampling: Sampling, cond: Cond) -> float:
    """Operations of drawing a batch: of one pass over all positions for each branch, as a causal
    model computes each once whatever its steps; of a masked one of all its steps."""
    branches = 1 if sampling.guidance.off else 2
    if model.loop == "causal":
        device = cond.device
        one, codes = conditions(model, 1, device), random_codes(model, 1, device)
        noise = Noise.request(0, 1, device=device)
        return cond.batch * branches * rates.counted(lambda: model.loss(codes, one, noise=noise))
    noise = Noise.request(0, cond.batch, device=cond.device)
    request = sampling.request(model, cond, noise)
    return rates.counted(lambda: [None for _ in LOOPS[model.loop](model, request)])


def learn(bench: Bench, of: Drawer, batch: int) -> Row:
    """A training step: forward, loss, backward, clipping and AdamW on a batch that is there."""
    dtype = bench.learned_in
    if bench.device.type == "cpu":
        keep_freed_memory()
    step = learning_step(of, batch, bench.device, dtype)
    operations = rates.counted(step)
    return _repeated("train", of.name, batch, bench, (step, operations, dtype))


def learning_step(
    of: Drawer, batch: int, device: torch.device, dtype: torch.dtype
) -> Callable[[], None]:
    """A training step whose products have a dtype, float32 or bfloat16, on random codes."""
    precision: Precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    objective: Objective = of.goal.objective(of.model.float().train(), None, 0)
    objective.requires_grad_(True)
    optimizer, given = adamw(objective.model, OptimConfig()), learned_batch(of.model, batch, device)

    def step() -> None:
        with autocast(device, precision):
            total = objective(given, 0).totals["model"]
        total.backward()
        nn.utils.clip_grad_norm_(objective.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def learned_batch(model: Generator, batch: int, device: torch.device) -> dict[str, Tensor]:
    """Random codes and conditions, a tenth of which are dropped."""
    cond = conditions(model, batch, device)
    named = {name: getattr(cond, name) for name in ("labels", "text", "text_mask", "map")}
    return {name: part for name, part in named.items() if part is not None} | {
        "codes": random_codes(model, batch, device),
        "chance": torch.linspace(0, 1, batch, device=device),
        "shuffle": torch.arange(batch, device=device),
    }


def random_codes(model: Generator, batch: int, device: torch.device) -> Tensor:
    spec = model.spec
    codes = spec.empty(batch, device)
    return codes.random_(spec.vocab) if spec.discrete else codes.normal_()


@torch.inference_mode()
def encode(bench: Bench, name: str, tokenizer: ImageTokenizer, batch: int) -> Row:
    """Pictures to codes, in the tokenizer's dtype."""
    images = torch.rand(batch, 3, *tokenizer.size, device=bench.device) * 2 - 1
    encoding = lambda: tokenizer.encode(images)  # noqa: E731
    return _coded("encode", name, batch, bench, encoding, torch.float32)


@torch.inference_mode()
def decode(bench: Bench, name: str, tokenizer: ImageTokenizer, batch: int) -> Row:
    """Codes to pictures, as pipelines decode on the device."""
    images = torch.rand(batch, 3, *tokenizer.size, device=bench.device) * 2 - 1
    codes, dtype = tokenizer.encode(images), decoding_dtype(bench.device)
    with decoding(tokenizer):
        return _coded("decode", name, batch, bench, lambda: tokenizer.decode(codes), dtype)


def _coded(
    work: str, name: str, batch: int, bench: Bench, run: Callable[[], object], dtype: torch.dtype
) -> Row:
    operations = rates.counted(run)
    return _repeated(work, name, batch, bench, (run, operations, dtype))


def _repeated(
    work: str,
    name: str,
    batch: int,
    bench: Bench,
    what: tuple[Callable[[], object], float, torch.dtype],
) -> Row:
    """The row of work that is the same each time: the median of calls within `Bench.seconds`."""
    (run, operations, dtype), device = what, bench.device
    rates.forget_peak(device)
    times, until = list[float](), time.monotonic() + bench.seconds
    while not times or time.monotonic() < until:
        times.append(rates.seconds(run, device))
    limit = bench.limit(0, operations, dtype)
    return Row(
        *(work, name, batch, short(dtype), statistics.median(times), 1, 1.0),
        *(operations, 0.0, limit, rates.peak_memory(device)),
    )
