"""Everything that is claimed of a GPU, in one run of less than ten minutes.

    PYTHONPATH=src python benchmarks/gpu.py [--only PART ...] [--seconds 570]
    PYTHONPATH=src python benchmarks/gpu.py --cpu

Each part is a process of its own with a limit of time, so that one which fails or hangs leaves the
others alone. It prints JSON lines; a table of what was measured beside what was aimed at, and of
what failed, comes last, and the exit status is 1 if anything failed or missed its aim. Weights are
random. Steps are drawn one by one (`way` "plain") and recorded ("recorded"). `limit_s` is the time
in which the device, at the bandwidth measured in the same run, reads the weights once for each step
and the keys and values that are there on average; `share` is limit_s over the measured time.
Training's share is of the measured rate of bfloat16 products of 8192 x 8192 matrices, and of
`--peak` TFLOP/s. With --cpu tiny models run, to see that the script does.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common import report
from smalti.codes import Cond
from smalti.devices import rates
from smalti.devices.float32 import set_products
from smalti.devices.named import cast
from smalti.engine import stream
from smalti.engine.captured import SWITCH, recordings
from smalti.engine.step import Request
from smalti.models import llamagen, mar, maskgit, rar, var
from smalti.pipeline.coded import decoded
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.parallel import Parallel
from smalti.sampling.reveal import Reveal
from smalti.sampling.solvers import Solver
from smalti.tokenizers import multiscale_vqvae, vqgan
from smalti.train import compiling
from smalti.train.objectives import LikelihoodConfig
from smalti.train.optim import OptimConfig, adamw
from smalti.train.parallel import autocast

HERE = Path(__file__).parent
Row = dict[str, Any]
TARGETS = {
    "llamagen-B recorded, batch 1": ("seconds", 0.15, "below"),
    "llamagen-B recorded, batch 64": ("share", 0.60, "above"),
    "var-d16 recorded, batch 1": ("seconds", 0.06, "below"),
    "llamagen-L training, compiled": ("share_of_peak", 0.45, "above"),
}
"""What is aimed at: a case, which of its numbers, and on which side of what."""
GPU_TESTS = ["tests/gpu", "tests/contracts/test_unified_devices.py"]
"""Where tests are that need a GPU, and no weights."""


class Machine:
    """The device, and the sizes that fit it."""

    def __init__(self, cpu: bool, peak: float) -> None:
        self.cpu, self.peak = cpu, peak * 1e12
        self.device = torch.device("cpu" if cpu else "cuda")
        self.dtype = torch.float32 if cpu else torch.bfloat16
        set_products(self.device)

    def made(self, kind: Any, config: Any, tiny: Any) -> Any:
        """A model in evaluation mode, in the dtype that it draws in."""
        torch.manual_seed(0)
        with self.device:
            model = kind(tiny if self.cpu else config).eval()
        cast(model, self.dtype, getattr(kind, "FLOAT32", ()))
        return model

    def seconds(self, run: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
        """Median and minimum of some calls, after two that are not counted."""
        taken = list[float]()
        for i in range(2 if self.cpu else rounds + 2):
            start = time.perf_counter()
            run()
            if not self.cpu:
                torch.cuda.synchronize()
            if self.cpu or i >= 2:
                taken.append(time.perf_counter() - start)
        return statistics.median(taken), min(taken)

    def bandwidth(self) -> float:
        """Bytes a second that a copy reads and writes."""
        x = torch.zeros((1 << 22) if self.cpu else (1 << 31), dtype=torch.int16, device=self.device)
        y = torch.empty_like(x)
        return 2 * x.nbytes / self.seconds(lambda: y.copy_(x))[1]

    def product_rate(self) -> float:
        """Multiplications and additions a second of a product of bfloat16 matrices."""
        side = 256 if self.cpu else 8192
        x, y = (torch.randn(side, side, device=self.device).to(self.dtype) for _ in range(2))
        return 2 * side**3 / self.seconds(lambda: x @ y)[1]


def machine(m: Machine) -> Iterator[Row]:
    """What the device can do."""
    yield {"case": "machine", "bytes_per_s": m.bandwidth(), "products_per_s": m.product_rate()}


def tests(m: Machine) -> Iterator[Row]:
    """The tests that need a GPU."""
    words = ["-m", "gpu", "-q", "-x" if m.cpu else "--tb=short", "-p", "no:cacheprovider"]
    words += ["-k", "attention"] if m.cpu else GPU_TESTS[1:]
    paths = [str(HERE.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    child = subprocess.Popen(
        [sys.executable, "-m", "pytest", *words, GPU_TESTS[0]],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert child.stdout is not None
    last = ""
    for line in child.stdout:  # as it comes: what was said before the time is over is seen
        print(line, end="", file=sys.stderr, flush=True)
        last = line.strip() or last
    yield {"case": "tests", "said": last} | ({"failed": last} if child.wait() else {})


def request(m: Machine, model: Any, batch: int, **more: Any) -> Request:
    labels = torch.arange(batch, device=m.device) % model.config.classes
    return Request(Cond(labels), Noise.request(0, batch, 0, m.device), Guidance(2.0), **more)


def drawing(
    m: Machine, name: str, model: Any, wish: Request, then: Callable[[Any], object] = lambda x: x
) -> Iterator[Row]:
    """A batch of codes, and what is done with them `then`, plain and recorded."""

    def run() -> None:
        *_, last = stream(model, wish)
        then(last.drawn)

    batch = wish.cond.batch
    for way in ("plain", "recorded"):
        os.environ[SWITCH] = str(int(way == "recorded"))
        start = time.perf_counter()
        run()
        if not m.cpu:
            torch.cuda.synchronize()
        first = time.perf_counter() - start
        middle, least = m.seconds(run, 3 if way == "plain" else 7)
        row = {"case": f"{name} {way}, batch {batch}", "seconds": middle, "least": least}
        yield row | {"first_call": first, "recordings": recordings(model)}


def limit(m: Machine, model: Any, rows: int) -> float:
    """Seconds of reading the weights once a step, and half of the cache on average."""
    tables = {id(e.weight) for e in model.modules() if isinstance(e, torch.nn.Embedding)}
    weights = sum(p.nbytes for p in model.parameters() if id(p) not in tables)
    steps = len(model.blocks())
    return steps * (weights + model.cache(rows).nbytes / 2) / m.bandwidth()


def raster(m: Machine) -> Iterator[Row]:
    """LlamaGen-B, 256 codes."""
    model = m.made(
        llamagen.LlamaGen, llamagen.LlamaGenConfig(**llamagen.SIZES["B"]), llamagen.tiny()
    )
    for batch in (1, 64):
        fastest = limit(m, model, 2 * batch)
        for row in drawing(m, "llamagen-B", model, request(m, model, batch)):
            yield row | {"limit_s": fastest, "share": fastest / row["seconds"]}
    some = request(m, model, 1, filters=Filters(top_k=20, top_p=0.9))
    yield from drawing(m, "llamagen-B with top-k and top-p", model, some)
    ahead = request(m, model, 1, parallel=Parallel("exact", 8))
    codes = [[*stream(model, wish)][-1].codes.clone() for wish in (request(m, model, 1), ahead)]
    equal = (codes[0] == codes[1]).float().mean().item()  # in bfloat16 ties are common
    for row in drawing(m, "llamagen-B ahead", model, ahead):
        yield row | {"codes_as_in_turn": equal}


def scales(m: Machine) -> Iterator[Row]:
    """VAR-d16, with its decoder."""
    model = m.made(var.VAR, var.VARConfig(**var.SIZES["d16"]), var.tiny())
    kind, tiny = multiscale_vqvae.MultiScaleVQVAE, multiscale_vqvae.tiny()
    torch.manual_seed(0)
    config = replace(tiny, vocab=32, scales=model.spec.grids) if m.cpu else None
    tokenizer = kind(config or multiscale_vqvae.MultiScaleConfig()).to(m.device).eval()
    more = {"filters": Filters(top_k=min(900, model.spec.vocab), top_p=0.95)}
    for batch in (1, 16):
        wish = request(m, model, batch, **more)
        yield from drawing(m, "var-d16", model, wish, lambda codes: decoded(tokenizer, codes))


def others(m: Machine) -> Iterator[Row]:
    """RAR-B, MaskGIT, MAR-B."""
    model = m.made(rar.RAR, rar.RARConfig(**rar.SIZES["B"]), rar.tiny())
    yield from drawing(m, "rar-B", model, request(m, model, 1))
    model = m.made(maskgit.MaskGIT, maskgit.MaskGITConfig(), maskgit.tiny())
    how = Reveal(steps=8, confidence=model.confidence)
    yield from drawing(m, "maskgit", model, request(m, model, 1, reveal=how))
    model = m.made(mar.MAR, mar.MARConfig(**mar.SIZES["B"]), mar.tiny())
    more = {"reveal": Reveal(steps=16), "solver": Solver(steps="25")}
    yield from drawing(m, "mar-B 16 x 25", model, request(m, model, 1, **more))


def decoders(m: Machine) -> Iterator[Row]:
    """LlamaGen's decoder, 256 pixels."""
    torch.manual_seed(0)
    tokenizer = vqgan.VQGAN(vqgan.tiny() if m.cpu else vqgan.VQGANConfig()).to(m.device).eval()
    spec = tokenizer.spec
    for batch in (1, 64):
        codes = torch.randint(spec.vocab, spec.shape(batch), device=m.device)
        middle, least = m.seconds(lambda codes=codes: decoded(tokenizer, codes))
        yield {"case": f"vq-16 decoder, batch {batch}", "seconds": middle, "least": least}


def training(m: Machine) -> Iterator[Row]:
    """LlamaGen-L, without and with compiled blocks."""
    batch, rate = (2, m.product_rate()) if m.cpu else (32, m.product_rate())
    for way in ("plain", "compiled"):
        torch.manual_seed(0)
        config = llamagen.LlamaGenConfig(**llamagen.SIZES["L"])
        with m.device:
            model = llamagen.LlamaGen(llamagen.tiny() if m.cpu else config).train()
        objective = LikelihoodConfig().objective(model, None, 0)
        optimizer = adamw(model, OptimConfig())
        codes = torch.randint(model.spec.vocab, model.spec.shape(batch), device=m.device)
        labels = torch.arange(batch, device=m.device) % model.config.classes
        given = {"codes": codes, "labels": labels, "chance": torch.ones(batch, device=m.device)}

        def learn(objective: Any = objective, given: Row = given) -> None:
            with autocast(m.device, "auto"):
                loss = objective(given, 0).totals["model"]
            loss.backward()

        def step(learn: Any = learn, model: Any = model, optimizer: Any = optimizer) -> None:
            learn()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        operations = rates.counted(learn)
        if way == "compiled":
            compiling.BACKEND = "aot_eager" if m.cpu else "inductor"
            compiling.compile_blocks(model)
        middle, least = m.seconds(step)
        row = {"case": f"llamagen-L training, {way}", "seconds": middle, "least": least}
        row |= {"batch": batch, "share": operations / middle / rate}
        yield row | {"share_of_peak": operations / middle / m.peak}


def unified(m: Machine) -> Iterator[Row]:
    """Models of text and pictures: `unified_gpu.py`, the small ones."""
    from unified_gpu import NAMES, case

    options = argparse.Namespace(size="small", batch=2 if m.cpu else 16, ids=4 if m.cpu else 64)
    for name in [*NAMES["small"]][: 1 if m.cpu else None]:
        found = case(name, options, m.device)
        yield found | {"case": f"{found['case']}, text and pictures"}


PARTS: dict[str, tuple[Callable[[Machine], Iterator[Row]], int]] = {
    "machine": (machine, 40),
    "raster": (raster, 90),
    "scales": (scales, 60),
    "training": (training, 110),
    "tests": (tests, 180),
    "decoders": (decoders, 40),
    "others": (others, 90),
    "unified": (unified, 90),
}
"""Each part, and the most seconds that it may take; the most important first."""


def run_part(name: str, options: argparse.Namespace) -> None:
    """In this process."""
    part, _ = PARTS[name]
    for row in part(Machine(options.cpu, options.peak)):
        report(row | {"part": name}, "cpu" if options.cpu else "cuda")


def run_all(options: argparse.Namespace) -> list[Row]:
    """Each part in a process of its own; what they reported."""
    begin, rows = time.perf_counter(), list[Row]()
    for name in options.only or PARTS:
        left = options.seconds - (time.perf_counter() - begin)
        limit = min(PARTS[name][1] * (4 if options.cpu else 1), left)
        found = {"case": name, "part": name}
        if limit < 10:
            rows.append(found | {"failed": "no time is left"})
            print(json.dumps(rows[-1]), flush=True)
            continue
        words = [sys.executable, __file__, "--part", name, "--peak", str(options.peak)]
        words += ["--cpu"] if options.cpu else []
        child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            said, _ = child.communicate(timeout=limit)
            failed = f"ended with {child.returncode}" if child.returncode else None
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # what it started too, which would be measured
            said, _ = child.communicate()
            failed = f"took more than {limit:.0f} s"
        except BaseException:  # such as Ctrl-C, which it does not hear
            os.killpg(child.pid, signal.SIGKILL)
            raise
        print(said, end="", flush=True)
        rows += [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        if failed:
            rows.append(found | {"failed": failed})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def missed(row: Row) -> bool:
    """Whether a case failed, or is on the wrong side of what was aimed at."""
    if "failed" in row or row["case"] not in TARGETS:
        return "failed" in row
    name, target, side = TARGETS[row["case"]]
    return row[name] >= target if side == "below" else row[name] <= target


def summary(rows: list[Row], cpu: bool) -> Iterator[str]:
    """A line for each case, and what was aimed at of a GPU; and for each aim that has no case."""
    for row in rows:
        numbers = {k: v for k, v in row.items() if isinstance(v, float)}
        text = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items()) or row.get("said", "")
        aimed = f"   FAILED: {row['failed']}" if "failed" in row else ""
        if row["case"] in TARGETS and not cpu:
            name, target, side = TARGETS[row["case"]]
            aimed = f"   {name} is to be {side} {target}: {'NO' if missed(row) else 'yes'}"
        yield f"{row['case']:42} {text}{aimed}"
    for case in [] if cpu else TARGETS.keys() - {row["case"] for row in rows}:
        yield f"{case:42} was not measured"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=[])
    parser.add_argument("--cpu", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--seconds", type=float, default=570.0)
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of bfloat16")
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run_part(options.part, options)
        return
    rows = run_all(options)
    print("\n".join(summary(rows, options.cpu)), file=sys.stderr)
    raise SystemExit(any("failed" in row if options.cpu else missed(row) for row in rows))


if __name__ == "__main__":
    main()
