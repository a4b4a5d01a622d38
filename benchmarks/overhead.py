"""What share of a training step is not forward, backward, clipping, optimizer and average?

    python benchmarks/overhead.py [--quick] [--only NAME]

Whole steps run in `Trainer.fit` with the recipe's own configuration: prefetched batches, learning
rate, logging, progress. Bare steps run the same objective and optimizers on a batch that is already
there. Both alternate in one process, after the codebook's warm-up and with all pictures decoded
once. `share` is 1 - bare / whole, of medians over the rounds; the target is below 0.05. Evaluation
and previews are off and no checkpoint falls due; `checkpoint_s` is what one takes of the training
thread, and `share_with_checkpoints` counts it once per `save_every` steps.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import report, seconds
from smalti.codes import TokenSpec
from smalti.data.code_batches import CodeBatches
from smalti.data.loader import Batches, Images
from smalti.data.open import open_source
from smalti.data.source import split
from smalti.data.token_cache import TokenCache
from smalti.data.token_file import Encoding, write_cache
from smalti.models.llamagen import LlamaGen
from smalti.recipes.base import GeneratorRecipe, TokenizerRecipe
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan, llamagen_b
from smalti.tokenizers.vqgan import VQGAN
from smalti.train.checkpoint import Writer
from smalti.train.objectives import Likelihood, ReconstructionObjective
from smalti.train.parallel import World, autocast
from smalti.train.settings import TrainConfig
from smalti.train.trainer import LiveLine, Trainer

WORLD = World(0, 1, torch.device("cpu"))


class Enough(Exception):
    """Leaves `fit` before its last step."""


@dataclass
class Timed:
    """Stands for a trainer's `_train_step`, and stops `fit` at the start of step `stop`."""

    trainer: Trainer
    inner: Callable[..., object]
    stop: int = 0
    began: float = 0.0

    def __call__(self, module: nn.Module, batch: dict[str, Tensor]) -> object:
        now = time.perf_counter()
        self.began = self.began or now
        if self.trainer.step == self.stop:
            raise Enough(now - self.began)
        return self.inner(module, batch)

    def run(self, count: int) -> float:
        """Seconds of `count` whole steps, from the start of one to the start of another."""
        self.stop, self.began = self.trainer.step + count, 0.0
        try:
            self.trainer.fit()
        except Enough as enough:
            return enough.args[0]
        raise AssertionError("fit ended before its time")


def bare(trainer: Trainer, batches: list[dict[str, Tensor]]) -> None:
    """One training step per batch, and nothing else."""
    for batch in batches:
        with autocast(WORLD.device, trainer.config.precision):
            losses = trainer.objective(batch, trainer.step)
        sum(losses.totals.values()).backward()
        for name, module in trainer.modules.items():
            nn.utils.clip_grad_norm_(module.parameters(), trainer.config.optim.clip)
            trainer.optimizers[name].step()
            trainer.optimizers[name].zero_grad()
        if trainer.ema is not None:
            trainer.ema.update(trainer.step)
        trainer.step += 1


def tokenizer(recipe: TokenizerRecipe, run: Path) -> Trainer:
    source = open_source(recipe.data.source)
    chosen, _ = split(source, recipe.data.holdout)
    size = recipe.model.size[0]
    batches = Images(source, chosen, recipe.data.transform(size), recipe.train.batch)
    objective = ReconstructionObjective(VQGAN(recipe.model), recipe.objective)
    return make(objective, batches, recipe.train, run, ("loss", "psnr", "usage"))


def generator(recipe: GeneratorRecipe, run: Path) -> Trainer:
    """On random codes: 2 views of 2000 images."""
    spec, classes = recipe.model.spec, recipe.model.classes
    rng = np.random.default_rng(0)
    shape = (2, spec.positions)
    rows = ((rng.integers(spec.vocab, size=shape), i % classes, "", False, str(i)) for i in ROWS)
    about = {"tokenizer_fingerprint": "", "source": "", "source_fingerprint": ""}
    names = [str(i) for i in range(classes)]
    path = run.with_name(run.name + ".arrow")
    spec = TokenSpec(spec.grids, spec.vocab)
    write_cache(path, rows, Encoding(spec, 2, transform={}, classes=names, **about))
    cache = TokenCache(path)
    batches = CodeBatches(cache, cache.indices("train"), recipe.train.batch)
    objective = Likelihood(LlamaGen(recipe.model), recipe.objective)
    return make(objective, batches, recipe.train, run, ("loss",), spec.positions)


ROWS = range(2000)


def make(
    objective: nn.Module,
    batches: Batches,
    config: TrainConfig,
    run: Path,
    show: tuple[str, ...],
    positions: int = 1,
) -> Trainer:
    config = replace(config, eval_every=0, preview_every=0)
    return Trainer(
        objective, batches, config, run, WORLD, LiveLine(show=show, units_per_item=positions)
    )


def measure(name: str, trainer: Trainer, rounds: int, count: int, warm: int) -> None:
    decode = seconds(lambda: [None for _ in trainer.batches.evaluation(64)])
    timed = Timed(trainer, trainer._train_step)
    trainer._train_step = timed  # type: ignore[method-assign]
    timed.run(warm)
    ready = [trainer.batches.batch(i) for i in range(count)]
    bare(trainer, ready[: warm // 10])
    whole, plain = [], []
    for i in range(rounds):
        for way in (0, 1) if i % 2 else (1, 0):  # neither is always first
            if way:
                whole.append(timed.run(count) / count)
            else:
                plain.append(seconds(lambda: bare(trainer, ready)) / count)
    config = trainer.config
    assert trainer.step < min(config.save_every, config.steps)
    trainer.writer = Writer(trainer.run / "checkpoints", keep=1)  # fit has closed its own
    save = seconds(trainer.save)
    trainer.writer.wait()
    step, core = statistics.median(whole), statistics.median(plain)
    share = save / config.save_every
    case = {
        "script": "overhead",
        "case": name,
        "batch": config.batch,
        "log_every": config.log_every,
        "rounds": rounds,
        "steps_per_round": count,
        "whole_ms_median": step * 1e3,
        "bare_ms_median": core * 1e3,
        "whole_ms_min": min(whole) * 1e3,
        "bare_ms_min": min(plain) * 1e3,
        "share": 1 - core / step,
        "share_of_minima": 1 - min(plain) / min(whole),
        "checkpoint_s": save,
        "share_with_checkpoints": 1 - core / (step + share),
        "first_pass_over_data_s": decode,
    }
    report(case)


def main() -> None:
    parser = argparse.ArgumentParser(description="share of a training step that is not the step")
    names = ("emoji_vqgan", "emoji_llamagen", "llamagen_b")
    parser.add_argument("--quick", action="store_true", help="one short round, B with one layer")
    parser.add_argument("--only", choices=names, help="one case instead of all three")
    options = parser.parse_args()
    b = llamagen_b()
    b = replace(b, train=replace(b.train, batch=1))
    if options.quick:
        b = replace(b, model=replace(b.model, layers=1))
    with tempfile.TemporaryDirectory() as folder:
        for name in names if options.only is None else (options.only,):
            torch.manual_seed(0)
            run, rounds, count, warm = Path(folder) / name, 8, 20, 40
            if name == "emoji_vqgan":
                trainer = tokenizer(emoji_vqgan(), run)
            elif name == "emoji_llamagen":
                trainer = generator(emoji_llamagen(), run)
            else:
                trainer = generator(b, run)
                rounds, count, warm = 6, 8, 8
            if options.quick:
                rounds, count, warm = 1, 10, min(warm, 25)
            measure(name, trainer, rounds, count, warm)


if __name__ == "__main__":
    main()
