"""How fast is smalti beside the official code of others, in one process, both in turn?

    python benchmarks/peers.py [--llamagen DIR] [--rar DIR] [--var DIR] [--mar DIR] [--llama]
        [--only NAME ...] [--dtype float32 bfloat16] [--rounds N] [--steps N] [--clock wall]
        [--quick]

A folder is a checkout of FoundationVision/LlamaGen, bytedance/1d-tokenizer, FoundationVision/VAR or
LTH14/mar; --llama takes transformers' Llama of LlamaGen-B's shape. Weights are random, guidance is
on. A row has the medians, means and minima of both, their quotients (above 1 smalti is faster) and
the share of the limit on paper that each reaches (`smalti bench` says what that is). Steps of
LlamaGen, RAR and Llama are those of a whole picture, at equal positions, but the first two, which
have smalti's packing: 256 at 0.1 s take half a minute a side. With --steps so many from the middle
of it are timed, and those before them not. Means count what few steps do: RAR of smalti modulates
32 steps at a time.
In bfloat16 LlamaGen's official weights are cast, as its scripts do; the others have autocast. On a
machine that others use, --clock cpu counts the processor's time instead.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import upstream
from common import report
from smalti.devices import rates
from smalti.devices.named import cast
from smalti.devices.rates import counted
from smalti.engine import stream
from smalti.runs.bench import (
    Bench,
    Drawer,
    conditions,
    drawer,
    drawn_operations,
    step_bytes,
    tokenizer_of,
)
from smalti.sampling.noise import Noise
from smalti.train.optim import OptimConfig, adamw
from smalti.train.parallel import keep_freed_memory

CPU = torch.device("cpu")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Case(NamedTuple):
    """The same work of both."""

    name: str
    dtype: torch.dtype
    official: Callable[[], object]
    smalti: Callable[[], object]
    limit: float
    """Seconds on paper of what smalti does."""
    rounds: int


def measured(case: Case, clock: Callable[[], float]) -> dict[str, Any]:
    """Both in turn, neither always first, after one round that is not counted."""
    times: dict[str, list[float]] = {"official": [], "smalti": []}
    for i in range(case.rounds + 1):
        for side in sorted(times, reverse=bool(i % 2)):
            begin = clock()
            getattr(case, side)()
            times[side].append(clock() - begin)
    found: dict[str, Any] = {"case": case.name, "dtype": str(case.dtype).removeprefix("torch.")}
    for kind, reduce in (("", statistics.median), ("_mean", statistics.fmean), ("_min", min)):
        both = {side: reduce(values[1:]) for side, values in times.items()}
        found |= {f"{side}_ms{kind}": 1e3 * value for side, value in both.items()}
        found[f"ratio{kind}"] = both["official"] / both["smalti"]
        found |= {f"{side}_share{kind}": case.limit / value for side, value in both.items()}
    return found | {"limit_ms": 1e3 * case.limit, "rounds": case.rounds}


class Setting(NamedTuple):
    """How cases are measured."""

    dtype: torch.dtype
    rounds: int
    options: argparse.Namespace

    @property
    def bench(self) -> Bench:
        return Bench(CPU, self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """For official code whose weights are float32."""
        return torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32)


def ours(name: str, dtype: torch.dtype) -> Drawer:
    """A model of a recipe, whose head is random too."""
    of = drawer(name, True, CPU)
    projection = getattr(of.model.head, "proj", None)
    if isinstance(projection, nn.Linear):
        nn.init.normal_(projection.weight, std=0.02)
    cast(of.model, dtype, of.model.FLOAT32)
    return of


def drawing(of: Drawer, batch: int, **changes: Any) -> Iterator[Any]:
    """The steps of a batch."""
    cond, noise = conditions(of.model, batch, CPU), Noise.request(0, batch)
    return stream(of.model, of.sampling.changed(**changes).request(of.model, cond, noise))


def drawn(of: Drawer, tokenizer: Any, batch: int, **changes: Any) -> Tensor:
    """What `drawing` ends with: as pictures, if there is a tokenizer."""
    *_, last = drawing(of, batch, **changes)
    with torch.inference_mode():
        return last.drawn if tokenizer is None else tokenizer.decode(last.drawn)


def limit(setting: Setting, of: Drawer, batch: int, passes: int) -> float:
    """Seconds on paper of so many passes, of as many as a drawing has."""
    cond, all_passes = conditions(of.model, batch, CPU), len(of.model.blocks())
    operations = drawn_operations(of.model, of.sampling, cond) * passes / all_passes
    return setting.bench.limit(passes * step_bytes(of.model), operations, setting.dtype)


def steps(
    name: str, setting: Setting, of: Drawer, batch: int, theirs: Iterator[Any], **changes: Any
) -> Case:
    """A step of each; which are timed, `--steps` says."""
    mine, total = drawing(of, batch, **changes), of.model.spec.positions
    timed = min(setting.options.steps or total, total - 2)
    for _ in range((total - timed) // 2):  # and one in `measured`
        next(mine), next(theirs)
    paper = limit(setting, of, batch, 1)
    return Case(
        f"{name} step, batch {batch}",
        setting.dtype,
        partial(next, theirs),
        partial(next, mine),
        paper,
        timed,
    )


def autocast_steps(setting: Setting, theirs: Iterator[Any]) -> Iterator[Any]:
    """The steps of official code, each in its context."""
    while True:
        with setting.autocast():
            step = next(theirs)
        yield step


# -- the cases of each


def llamagen(setting: Setting) -> Iterator[Case]:
    them, of = upstream.llamagen(setting.options.llamagen), ours("llamagen_b", setting.dtype)
    them.model.to(setting.dtype)
    for batch in (1, 8):
        theirs = them.steps(torch.arange(batch), 2.0)
        yield steps("LlamaGen-B", setting, of, batch, theirs, guidance=2.0)
    if setting.options.quick:
        return
    tokenizer, label = tokenizer_of("llamagen_vq16", True, CPU), torch.arange(1)
    codes = torch.randint(16384, (1, 256))
    with torch.inference_mode():
        decoding = counted(lambda: tokenizer.decode(codes))
    paper = limit(setting, of, 1, 256) + Bench(CPU).limit(0, decoding, torch.float32)
    yield Case(
        "LlamaGen-B image with decoder",
        setting.dtype,
        lambda: them.image(label, 2.0),
        lambda: drawn(of, tokenizer, 1, guidance=2.0),
        paper,
        1,
    )


def rar(setting: Setting) -> Iterator[Case]:
    them, of = upstream.rar(setting.options.rar), ours("rar_b", setting.dtype)
    with torch.autocast("cpu", enabled=False):  # around those of steps, it keeps what they cast
        for batch in (1, 8):
            theirs = autocast_steps(setting, upstream.rar_steps(them, torch.arange(batch), 4.0))
            yield steps("RAR-B", setting, of, batch, theirs)


def var(setting: Setting) -> Iterator[Case]:
    them, of = upstream.var(setting.options.var), ours("var_d16", setting.dtype)
    tokenizer, label = tokenizer_of("var_vqvae", True, CPU), torch.arange(1)
    of.model.learn_from(tokenizer)

    def image() -> Tensor:
        with setting.autocast():
            return them.image(label)

    settings = {"guidance": 2.5, "top_k": 900, "top_p": 0.95}
    paper = limit(setting, of, 1, len(of.model.blocks()))
    mine = partial(drawn, of, tokenizer, 1, **settings)
    yield Case("VAR-d16 with decoder", setting.dtype, image, mine, paper, setting.rounds)


def mar(setting: Setting) -> Iterator[Case]:
    count, heads = setting.options.mar_steps, setting.options.mar_head_steps
    them, of = upstream.mar(setting.options.mar, heads), ours("mar_b", setting.dtype)
    label, settings = torch.arange(1), {"steps": count, "head_steps": str(heads)}

    def codes() -> Tensor:
        with setting.autocast(), torch.no_grad():
            return them.sample_tokens(1, count, 2.9, "linear", label)

    sampling = of.sampling.changed(**settings)
    operations = drawn_operations(of.model, sampling, conditions(of.model, 1, CPU))
    paper = setting.bench.limit(count * step_bytes(of.model), operations, setting.dtype)
    mine = partial(drawn, of, None, 1, **settings)
    name = f"MAR-B {count} x {heads}"
    yield Case(name, setting.dtype, codes, mine, paper, setting.rounds)


def llama(setting: Setting) -> Iterator[Case]:
    of = ours("llamagen_b", setting.dtype)
    for rows in (2, 16):
        theirs = upstream.llama(rows, 257, setting.dtype)
        case = steps("Llama", setting, of, rows // 2, theirs, guidance=2.0)
        yield case._replace(name=f"transformers' Llama, {rows} rows")


def training(setting: Setting) -> Iterator[Case]:
    """Steps of LlamaGen-B and VAR-d16: forward, loss, backward, clipping, AdamW."""
    options = setting.options
    cases = (("llamagen_b", options.llamagen, upstream.llamagen, 16384),)
    cases += (("var_d16", options.var, upstream.var, 4096),)
    for name, folder, build, vocab in cases:
        if folder is None:
            continue
        them, of, batch = build(folder), drawer(name, True, CPU), options.batch
        codes = torch.randint(vocab, of.model.spec.shape(batch))
        labels = torch.arange(batch)
        given = {"codes": codes, "labels": labels, "chance": torch.linspace(0, 1, batch)}
        objective = of.goal.objective(of.model.train(), None, 0)
        theirs = optimized(them.model.train(), partial(them.loss, codes, labels), setting)
        mine = optimized(of.model, lambda o=objective, g=given: o(g, 0).totals["model"], setting)
        paper = setting.bench.limit(0, counted(mine), setting.dtype)
        title = f"{name} training step, batch {batch}"
        yield Case(title, setting.dtype, theirs, mine, paper, setting.rounds)


def optimized(
    model: nn.Module, loss: Callable[[], Tensor], setting: Setting
) -> Callable[[], object]:
    """A training step of a loss."""
    optimizer = adamw(model, OptimConfig())

    def step() -> None:
        with setting.autocast():
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


CASES = {"llamagen": llamagen, "rar": rar, "var": var, "mar": mar, "llama": llama}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("llamagen", "rar", "var", "mar"):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help="a checkout")
    parser.add_argument("--llama", action="store_true", help="transformers' Llama")
    parser.add_argument("--only", nargs="+", choices=(*CASES, "training"), default=[])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3, help="of whole pictures, and of training")
    parser.add_argument("--steps", type=int, default=0, help="of a picture; 0: all")
    parser.add_argument("--batch", type=int, default=8, help="of training steps")
    parser.add_argument("--mar-steps", type=int, default=16, help="reveal steps of MAR")
    parser.add_argument("--mar-head-steps", type=int, default=25, help="of its diffusion")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--quick", action="store_true", help="no whole image of LlamaGen")
    options = parser.parse_args()
    keep_freed_memory()
    rates.clock = CLOCKS[options.clock]
    chosen = options.only or [*(n for n in CASES if getattr(options, n)), "training"]
    for name in chosen:
        run = training if name == "training" else CASES[name]
        for dtype in options.dtype:
            torch.manual_seed(0)
            setting = Setting(getattr(torch, dtype), options.rounds, options)
            for case in run(setting):
                report({"script": "peers"} | measured(case, CLOCKS[options.clock]))


if __name__ == "__main__":
    main()
