"""The trainer, one for tokenizers and generators.

It knows an objective (losses per optimizer), addressable batches (a batch is a function of the
step, so a resumed run needs no data position), and two callbacks. Everything that is not forward,
backward or optimizer stays off the step: batches come from a thread, numbers are read from the
device only when they are logged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smalti.data.loader import Batches, prefetch
from smalti.train import checkpoint
from smalti.train.ema import Ema
from smalti.train.log import Log
from smalti.train.objectives import Batch, Losses
from smalti.train.optim import OptimConfig, adamw, lr_at
from smalti.train.parallel import Precision, World, autocast, replicate


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 1000
    batch: int = 64
    """Images per optimizer step, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts into which a batch is cut to save memory; it must divide batch / processes."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Precision = "auto"
    """bf16 is autocast with float32 weights; auto takes it where the device is faster in it."""
    ema: float = 0.0
    """Decay of the average of weights that is evaluated and exported; 0 has none."""
    seed: int = 0
    log_every: int = 10
    eval_every: int = 500
    """Steps between evaluations on held-out data; also at the end. 0: only there."""
    preview_every: int = 500
    """Steps between picture grids; also at the end. 0: only there."""
    save_every: int = 500
    """Steps between checkpoints; also at the end."""
    keep: int = 2
    """Checkpoints kept."""
    device: str = "auto"
    """cuda, cpu, mps, or auto: the best there is."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        if self.batch % self.accumulate:
            raise ValueError(
                f"train.accumulate must divide train.batch {self.batch}, got {self.accumulate}"
            )


class TrainingStopped(ArithmeticError):
    """Training cannot go on; the last checkpoint is intact."""


Evaluate = Callable[[], dict[str, float]]
Preview = Callable[[Path], None]


class Trainer:
    """Runs `fit` until `config.steps`, from the last checkpoint of `run` if there is one.

    `evaluate` gives held-out numbers and `preview` writes a picture to a path; both run on the main
    process, on the averaged weights if there are any, in evaluation mode and without gradients.
    """

    def __init__(
        self,
        objective: Any,
        batches: Batches,
        config: TrainConfig,
        run: Path,
        world: World,
        title: str = "training",
        show: tuple[str, ...] = ("loss",),
        unit: str = "images",
        units_per_item: int = 1,
        evaluate: Evaluate | None = None,
        preview: Preview | None = None,
    ) -> None:
        local = config.batch // world.size
        if config.batch % world.size or local % config.accumulate:
            raise ValueError(
                f"train.batch {config.batch} must be a multiple of processes x accumulate, "
                f"{world.size} x {config.accumulate}"
            )
        self.objective: Any = objective.to(world.device)
        self.batches, self.config, self.run, self.world = batches, config, run, world
        self.title, self.show, self.unit = title, list(show), unit
        self.units = config.batch * units_per_item
        self.evaluate, self.preview = evaluate, preview
        self.modules: dict[str, nn.Module] = objective.optimized()
        self.optimizers = {n: adamw(m, config.optim) for n, m in self.modules.items()}
        self.ema = Ema(objective.model, config.ema) if config.ema else None
        self.step = 0

    # -- state

    def state(self) -> dict[str, Any]:
        device = self.world.device
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return {
            "step": self.step,
            "objective": {
                k: v
                for k, v in self.objective.state_dict().items()
                if not k.startswith("perceptual.")  # frozen, and large
            },
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizers": {n: o.state_dict() for n, o in self.optimizers.items()},
            "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }

    def resume(self) -> bool:
        """Load the newest checkpoint of the run, if there is one."""
        found = checkpoint.found(self.run / "checkpoints")
        if not found:
            return False
        state = checkpoint.load(found[-1])
        self.objective.load_state_dict(state["objective"], strict=False)
        if self.ema is not None and state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.world.size == 1:
            torch.set_rng_state(state["rng"]["cpu"])
            if state["rng"]["cuda"] is not None and self.world.device.type == "cuda":
                torch.cuda.set_rng_state(state["rng"]["cuda"], self.world.device)
        self.step = state["step"]
        return True

    def save(self) -> None:
        if self.world.main:
            folder = self.run / "checkpoints"
            checkpoint.save(folder, self.step, self.state(), self.config.keep)

    # -- the loop

    def fit(self) -> None:
        """Train to the last step; write the last evaluation, picture and checkpoint."""
        config = self.config
        if self.world.main:
            self.run.mkdir(parents=True, exist_ok=True)
        # every process its own dropout, whatever the others do
        torch.manual_seed(config.seed * 1000003 + self.world.rank)
        resumed = self.resume()
        module = replicate(self.objective, self.world)
        module.train()
        steps, main = config.steps, self.world.main
        with ExitStack() as stack:
            log = stack.enter_context(Log(self.run, self.title, self.step, steps, main))
            if resumed:
                log.say(f"{self.title}: going on from step {self.step} in {self.run}")
            stream = prefetch(self.batches, self.step, steps)
            stack.callback(stream.close)
            self._loop(module, stream, log)

    def _loop(self, module: nn.Module, stream: Iterator[Batch], log: Log) -> None:
        steps = self.config.steps
        advised, since, clock = False, self.step, time.perf_counter()
        waited = 0.0
        while self.step < steps:
            begin = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - begin
            losses, norms = self._train_step(module, batch)
            self.step += 1
            due = {n: self._due(n) for n in ("log", "eval", "preview", "save")}
            log.advance(self.step)
            if due["log"]:
                numbers = self._numbers(losses, norms)
                seconds = time.perf_counter() - clock
                numbers[f"{self.unit}_per_s"] = self.units * (self.step - since) / seconds
                numbers["data_share"] = waited / seconds
                log.record(self.step, numbers, [*self.show, f"{self.unit}_per_s"])
                text = None if advised else self.objective.advice(numbers)
                if text and self.step > steps // 10:
                    log.say(f"advice: {text}")
                    advised = True
            if due["save"]:
                if not due["log"]:
                    self._numbers(losses, norms)  # stops at what is no number
                self.save()
            if due["eval"] or due["preview"]:
                self._look(log, due)
            if due["log"] or due["save"] or due["eval"] or due["preview"]:
                since, clock, waited = self.step, time.perf_counter(), 0.0

    def _due(self, what: str) -> bool:
        every = getattr(self.config, f"{what}_every")
        return self.step == self.config.steps or (every > 0 and self.step % every == 0)

    def _train_step(self, module: nn.Module, batch: Batch) -> tuple[Losses, dict[str, Tensor]]:
        config, device = self.config, self.world.device
        lr = lr_at(self.step, config.steps, config.optim)
        parts = config.accumulate
        size = config.batch // self.world.size // parts
        losses, logs = Losses({}, {}), dict[str, Tensor]()
        for i in range(parts):
            part = {
                k: v[i * size : (i + 1) * size].to(device, non_blocking=True)
                for k, v in batch.items()
            }
            last = i == parts - 1
            quiet = nullcontext() if last else getattr(module, "no_sync", nullcontext)()
            with quiet:
                with autocast(device, config.precision):
                    losses = module(part, self.step)
                torch.stack([t / parts for t in losses.totals.values()]).sum().backward()
            for name, value in losses.logs.items():
                logs[name] = logs.get(name, 0) + value / parts
        norms: dict[str, Tensor] = {}
        for name in losses.totals:
            optimizer = self.optimizers[name]
            if config.optim.clip:
                norms[name] = nn.utils.clip_grad_norm_(
                    self.modules[name].parameters(), config.optim.clip
                )
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.step)
        return Losses(losses.totals, logs), norms

    def _numbers(self, losses: Losses, norms: dict[str, Tensor]) -> dict[str, float]:
        """Read what is logged from the device, in one go; stop at a loss that is not finite."""
        named = dict(losses.logs) | {f"grad_norm_{k}": v for k, v in norms.items()}
        values = torch.stack([v.detach().float().reshape(()) for v in named.values()]).tolist()
        numbers = dict(zip(named, values, strict=True))
        numbers["lr"] = lr_at(self.step - 1, self.config.steps, self.config.optim)
        broken = {k: v for k, v in numbers.items() if not math.isfinite(v)}
        if "loss" in broken or any(k.startswith("grad_norm") for k in broken):
            name, value = next(iter(broken.items()))
            raise TrainingStopped(
                f"{name} is {value} at step {self.step}; the last checkpoint in "
                f"{self.run} is from before. Try a lower --train.optim.lr or a longer "
                "--train.optim.warmup"
            )
        return numbers

    @torch.no_grad()
    def _look(self, log: Log, due: dict[str, bool]) -> None:
        """Evaluate and draw on the main process, with averaged weights."""
        if not self.world.main:
            return
        model = self.objective.model
        model.eval()
        with self.averaged():
            if due["eval"] and self.evaluate is not None:
                numbers = {f"held_out_{k}": v for k, v in self.evaluate().items()}
                log.record(self.step, numbers, list(numbers))
            if due["preview"] and self.preview is not None:
                folder = self.run / "previews"
                folder.mkdir(exist_ok=True)
                self.preview(folder / f"step-{self.step:08d}.png")
        model.train()

    def averaged(self) -> Any:
        """A context in which the model has the weights that are to be exported."""
        return self.ema.applied() if self.ema is not None else nullcontext()
