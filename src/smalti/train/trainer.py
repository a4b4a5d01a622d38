"""The trainer, one for tokenizers and generators.

It knows an objective (losses per optimizer), addressable batches (a batch is a function of the
step, so a resumed run needs no data position), and two callbacks. Everything that is not forward,
backward or optimizer stays off the step: batches come from a thread, numbers are read from the
device only when they are logged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smalti.data.loader import Batches, prefetch
from smalti.devices.float32 import set_products
from smalti.nn.finite import NotFinite
from smalti.progress import say_threads
from smalti.train import checkpoint
from smalti.train.base import Batch, Losses, Objective
from smalti.train.compiling import compile_blocks, compiles
from smalti.train.ema import Ema
from smalti.train.guard import Guard
from smalti.train.interrupt import Interrupt
from smalti.train.log import Log
from smalti.train.optim import adamw, fill_state, load_state, lr_at, numbered, weight_decay_at
from smalti.train.parallel import (
    World,
    asked_later,
    autocast,
    blocks,
    gather,
    mean_over,
    replicate,
    sent,
    shard,
    unasked,
    whole,
)
from smalti.train.product_share import ProductShare, functional
from smalti.train.recomputing import keep_within, kept, recompute
from smalti.train.settings import TrainConfig


class TrainingStopped(ArithmeticError):
    """Training cannot go on; the last checkpoint is intact."""


@dataclass(frozen=True)
class LiveLine:
    """How a run speaks of itself while it goes on."""

    title: str = "training"
    """What is trained."""
    show: tuple[str, ...] = ("loss",)
    """Numbers that are shown, of all that are logged."""
    unit: str = "images"
    """What its speed is counted in."""
    units_per_item: int = 1
    """So many of them are in an item of a batch."""


Evaluate = Callable[[], dict[str, float]]
Preview = Callable[[Path], None]


class Trainer:
    """Runs `fit` until `config.steps`, from the last checkpoint of `run` if there is one.

    `evaluate` gives held-out numbers and `preview` writes a picture to a path; both run on the main
    process, on the averaged weights if there are any, in evaluation mode and without gradients.
    They see `objective.model`; with fsdp the main process keeps that as a whole copy.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        config: TrainConfig,
        run: Path,
        world: World,
        line: LiveLine | None = None,
        evaluate: Evaluate | None = None,
        preview: Preview | None = None,
    ) -> None:
        check_parts(objective, config, world)
        self.sharded = config.parallel == "fsdp"
        self.objective = objective
        if self.sharded:
            self.trained: Objective = shard(objective, world, config.precision)
        else:
            self.trained = objective.to(world.device)
        self.batches, self.config, self.run, self.world = batches, config, run, world
        self.line = line or LiveLine()
        self.evaluate, self.preview = evaluate, preview
        self.modules = self.trained.optimized()
        self.optimizers = {n: adamw(m, config.optim) for n, m in self.modules.items()}
        self.ema = Ema(self.trained.model, config.ema) if config.ema else None
        self.guard = Guard(config.guard).to(world.device)
        self.products = ProductShare(world, config.precision)
        self.writer = checkpoint.Writer(run / "checkpoints", config.keep)
        self.interrupt = Interrupt()
        self._wish = self._wishes = unasked
        self.step = 0
        self.owed: list[str] = []
        """Looks of this step that a run which was ended had no time for."""

    # -- state

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "owed": self.owed,
            "objective": {
                k: v
                for k, v in self.trained.state_dict().items()
                if not k.startswith("perceptual.")  # frozen, and large
            },
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizers": {n: o.state_dict() for n, o in self.optimizers.items()},
            "guard": self.guard.state_dict(),
        }

    def resume(self, say: Callable[[str], None] = lambda text: None) -> bool:
        """Load the newest checkpoint of the run that can be read, if there is one."""
        found = checkpoint.found(self.run / "checkpoints")
        if not found:
            return False
        if self.sharded:
            for optimizer in self.optimizers.values():
                fill_state(optimizer)
        state = self._newest(found, say)
        self.step, self.owed = state["step"], state.get("owed", [])
        if self.sharded:
            return True
        missing, unknown = self.trained.load_state_dict(state["objective"], strict=False)
        missing = [name for name in missing if not name.startswith("perceptual.")]
        if missing or unknown:
            raise ValueError(
                f"the checkpoints in {self.run} are of another model: {len(missing)} weights "
                f"missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}"
            )
        if self.ema is not None and state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
        for name, optimizer in self.optimizers.items():
            load_state(optimizer, state["optimizers"][name], self.modules[name])
        self.guard.load_state_dict(state["guard"])
        return True

    def _newest(self, found: list[Path], say: Callable[[str], None]) -> dict[str, Any]:
        while True:
            try:
                if self.sharded:
                    return checkpoint.load_sharded(found[-1], self._places)
                return checkpoint.load(found[-1])
            except ValueError as error:
                if len(found) == 1:
                    raise
                say(f"{error}; going on from {found[-2].name}")
                found = found[:-1]

    def _places(self, told: dict[str, Any]) -> dict[str, Any]:
        """The state, into which a checkpoint is read that tells this beside its tensors: weights
        have the numbers that its optimizers give them."""
        state = self.state()
        for name, optimizer in self.optimizers.items():
            groups = told["optimizers"][name]["param_groups"]
            order = numbered(optimizer, groups, self.modules[name])
            if order is not None:
                averages = {i: optimizer.state[p] for i, p in enumerate(order)}
                state["optimizers"][name]["state"] = averages
        return state

    def save(self) -> None:
        """Copy the state and have it written; `writer.wait` returns when it is on the disk."""
        if self.sharded:
            keep = self.config.keep
            checkpoint.save_sharded(self.run / "checkpoints", self.step, self.state(), keep)
        elif self.world.main:
            self.writer.save(self.step, self.state())

    # -- the loop

    def fit(self) -> None:
        """Train to the last step; write the last evaluation, picture and checkpoint.

        Raises KeyboardInterrupt after Ctrl-C or SIGTERM, when the step is done and saved.
        """
        config = self.config
        if self.world.main:
            self.run.mkdir(parents=True, exist_ok=True)
            say_threads()
        steps, main = config.steps, self.world.main
        with ExitStack() as stack:
            stack.callback(self.writer.close)
            said: list[str] = []
            resumed = self.resume(said.append)
            log = Log(self.run, self.line.title, self.step, steps, main, config.log)
            stack.enter_context(log)
            if resumed:
                said.append(f"{self.line.title}: going on from step {self.step} in {self.run}")
            for text in said:
                log.say(text)
            module = self.trained if self.sharded else replicate(self.trained, self.world)
            module.train()
            set_products(self.world.device, exact=config.precision == "fp32")
            if not self.sharded and self.step < steps:  # as at the end: a GAN has begun by then
                batch = self.batches.batch(self.step)
                self.products.count(self.trained, batch, steps - 1, self._items())
            if spared := self._spare_memory():
                log.say(f"{self.line.title}: {spared}")
            if compiles(config.compile, self.world.device, self.sharded):
                compile_blocks(self.trained.model, config.compile)
            stack.enter_context(self.interrupt)
            stream = prefetch(self.batches, self.step, steps)
            stack.callback(stream.close)
            if self.owed:
                self._look(log, self.owed)
            self._loop(module, stream, log)
            self.writer.wait()

    def _loop(self, module: nn.Module, stream: Iterator[Batch], log: Log) -> None:
        config, speed, steps = self.config, f"{self.line.unit}_per_s", self.config.steps
        advised, since, clock = False, self.step, time.perf_counter()
        waited = 0.0
        while self.step < steps:
            begin = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - begin
            losses, norms = self._train_step(module, batch)
            self.step += 1
            self.writer.check()
            due = {n: self._due(n) for n in ("log", "eval", "preview", "save")}
            stop = self._stop()
            due["save"] = due["save"] or stop
            log.advance(self.step)
            if due["log"] or due["save"]:
                self._judge(log)
            if due["log"]:
                numbers = self._numbers(losses, norms)
                seconds = time.perf_counter() - clock
                units = config.batch * self.line.units_per_item * (self.step - since)
                numbers[speed] = units / seconds
                numbers["data_share"] = waited / seconds
                if self.products.operations:
                    numbers["product_share"] = self.products.of(self.step - since, seconds)
                log.record(self.step, numbers, [*self.line.show, speed, "product_share"])
                text = None if advised else self.trained.advice(numbers)
                if text and self.step > steps // 10:
                    log.say(f"advice: {text}")
                    advised = True
            looks = self._look_or_owe(log, [n for n in ("eval", "preview") if due[n]], stop)
            if due["save"]:  # after the look: a checkpoint says that all before it is done, or owed
                self.save()
            if stop:
                self.writer.wait()
                raise KeyboardInterrupt
            if due["log"] or due["save"] or looks:
                since, clock, waited = self.step, time.perf_counter(), 0.0

    def _spare_memory(self) -> str | None:
        """Recompute the blocks that are to be; what there is to say of it."""
        config, model, device = self.config, self.trained.model, self.world.device
        if config.recompute:
            recompute(blocks(model))
        elif config.memory and self.sharded:
            raise ValueError(
                f"train.memory is for train.parallel ddp, got {config.memory:g} with fsdp: take "
                "train.recompute"
            )
        elif config.memory and self.step < config.steps:
            batch, items = self.batches.batch(self.step), config.batch // self.world.size
            item = {k: v[:1].to(device) for k, v in batch.items()}
            forward = functional(self.trained)
            with autocast(device, config.precision):
                found = kept(model, lambda: forward(item, self.step))
            return keep_within(model, found.times(items // config.accumulate), config.memory)
        return None

    def _items(self) -> int:
        """How many items take no more memory at a time than training does: a part of a batch, or
        one where blocks are to be recomputed."""
        config = self.config
        spared = config.recompute or config.memory
        return 1 if spared else config.batch // self.world.size // config.accumulate

    def _due(self, what: str) -> bool:
        every = getattr(self.config, f"{what}_every")
        return self.step == self.config.steps or (every > 0 and self.step % every == 0)

    def _stop(self) -> bool:
        """Whether to end after this step. Several processes agree on the wishes before the last
        step, which they exchanged with its loss: the device has them by now."""
        if self.step == self.config.steps:
            return False
        if self.world.size == 1:
            return self.interrupt.wished
        before, self._wishes = self._wishes, self._wish
        return before()

    def _train_step(self, module: nn.Module, batch: Batch) -> tuple[Losses, dict[str, Tensor]]:
        config, device = self.config, self.world.device
        # every step and process its own dropout, whatever came before: nothing to restore
        torch.manual_seed(step_seed(config.seed, self.step, self.world.rank))
        lr = lr_at(self.step, config.steps, config.optim)
        decay = weight_decay_at(self.step, config.steps, config.optim)
        parts = config.accumulate
        losses, logs = Losses({}, {}), dict[str, Tensor]()
        for i, part in enumerate(self._parts(batch)):
            last = i == parts - 1
            quiet = nullcontext() if last else getattr(module, "no_sync", nullcontext)()
            with quiet:
                with autocast(device, config.precision):
                    losses = module(part, self.step)
                torch.stack([t / parts for t in losses.totals.values()]).sum().backward()
            for name, value in losses.logs.items():
                logs[name] = logs.get(name, 0) + value / parts
        norms = {name: self._clip(self.modules[name]) for name in losses.totals}
        wish = torch.tensor(float(self.interrupt.wished)).to(device, non_blocking=True)
        loss, wish = mean_over(torch.stack([logs["loss"].float(), wish]), self.world)
        if self.world.size > 1:
            self._wish = asked_later(wish)
        bad = self.guard.judge(loss, list(norms.values()))
        for name in losses.totals:
            optimizer: Any = self.optimizers[name]
            for group in optimizer.param_groups:
                group["lr"] = lr
                if group.get("decayed", group["weight_decay"] > 0):  # older checkpoints do not say
                    group["weight_decay"] = decay
            optimizer.found_inf = bad  # the fused optimizer then leaves all as it is
            optimizer.step()
            optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.step)
        return Losses(losses.totals, logs), norms

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The parts of a batch on the device, one after another, with what is counted in all."""
        parts, device = self.config.accumulate, self.world.device
        size = self.config.batch // self.world.size // parts
        common = dict[str, Tensor]()
        if self.world.size * parts > 1 and (counts := self.trained.counts(batch)) is not None:
            common["counts"] = mean_over(sent(counts, device), self.world) / parts
        for i in range(parts):
            part = {k: v[i * size : (i + 1) * size] for k, v in batch.items()}
            yield common | {k: sent(v, device) for k, v in part.items()}

    def _clip(self, module: nn.Module) -> Tensor:
        """Clip the gradients of a module; their norm before."""
        weights = list(module.parameters())
        norm = nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        limit = self.config.optim.clip or float("inf")
        waits = self.world.device.type != "cpu" or self.sharded  # to look at the norm
        if waits or not norm <= limit:  # else gradients would be multiplied by 1
            nn.utils.clip_grads_with_norm_(weights, limit, norm)
        return whole(norm)

    def _judge(self, log: Log) -> None:
        """Tell of steps that went wrong since the last time; stop if it is to."""
        for event in self.guard.read(self.step):
            step = event.step + 1
            what = f"loss or gradient is no number (loss {event.loss})"
            if event.kind == "spike":
                what = f"loss {event.loss:.4g} leaps above its mean {event.mean:.4g}"
            log.event(step, event.kind, loss=event.loss, mean=event.mean, action=event.action)
            where = f"{what} at step {step}, {self._names(event.step)}"
            if event.action == "stop":
                raise TrainingStopped(
                    f"{where}; the last checkpoint in {self.run} is from before. Go on without "
                    "such steps (--train.guard.on-nan skip, --train.guard.on-spike skip), or take "
                    "another --out and a lower --train.optim.lr or a longer --train.optim.warmup"
                )
            log.say(f"{where}" + ("; the step is left out" if event.action == "skip" else ""))

    def _names(self, step: int) -> str:
        """The batch of a step for a message: its first items."""
        names = self.batches.names(step)
        return f"batch of {', '.join(names[:4])}" + (" ..." if len(names) > 4 else "")

    def _numbers(self, losses: Losses, norms: dict[str, Tensor]) -> dict[str, float]:
        """What is logged, means over all processes, read from the device in one go."""
        named = dict(losses.logs) | {f"grad_norm_{k}": v for k, v in norms.items()}
        values = torch.stack([v.detach().float().reshape(()) for v in named.values()])
        numbers = dict(zip(named, mean_over(values, self.world).tolist(), strict=True))
        numbers["lr"] = lr_at(self.step - 1, self.config.steps, self.config.optim)
        return numbers

    def _look_or_owe(self, log: Log, looks: list[str], stop: bool) -> list[str]:
        """Do what there is of looks; a run that ends here owes them to the one that goes on."""
        self.owed = looks if stop else []
        if looks and not stop:
            self._look(log, looks)
        return looks

    @torch.no_grad()
    def _look(self, log: Log, looks: list[str]) -> None:
        """Evaluate and draw, what there is of them in `looks`, on the main process, with averaged
        weights."""
        with self.averaged():
            if not self.world.main:
                return
            self.objective.eval()
            try:
                if "eval" in looks and self.evaluate is not None:
                    numbers = {f"held_out_{k}": v for k, v in self.evaluate().items()}
                    log.record(self.step, numbers, list(numbers))
                if "preview" in looks and self.preview is not None:
                    folder = self.run / "previews"
                    folder.mkdir(exist_ok=True)
                    picture = folder / f"step-{self.step:08d}.png"
                    self.preview(picture)
                    log.picture(self.step, picture)
            except NotFinite as error:  # what the guard forgives, a look must not end
                log.say(f"step {self.step} is not evaluated or shown: {error}")
            self.objective.train()  # the model as the objective wants it: parts may stay frozen

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the objective's model has the weights that are to be exported.

        All processes enter it; with fsdp the main one then holds the whole model.
        """
        if not self.sharded or self.world.size == 1:
            with self.ema.applied() if self.ema is not None else nullcontext():
                yield
            return
        values = dict(self.trained.model.state_dict())
        if self.ema is not None:
            values |= self.ema.state_dict()
        model, main = self.objective.model, self.world.main
        gather(values, model.state_dict() if main else {}, main)
        if main:
            model.to(self.world.device)
        yield
        if main:
            model.to("cpu")


def check_parts(objective: Objective, config: TrainConfig, world: World) -> None:
    """Raise ValueError for a batch that processes and parts do not divide, or that must not be in
    parts."""
    local = config.batch // world.size
    if config.batch % world.size or local % config.accumulate:
        raise ValueError(
            f"train.batch {config.batch} must be a multiple of processes x accumulate, "
            f"{world.size} x {config.accumulate}"
        )
    if config.accumulate > 1 and objective.compares:
        raise ValueError(
            "train.accumulate must be 1 where the items of a batch are compared with each other, "
            f"which those of several parts are not, got {config.accumulate}: take train.recompute, "
            "or more processes"
        )


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed of 32 bits for the random numbers of one training step of one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
