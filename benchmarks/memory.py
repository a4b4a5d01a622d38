"""How much memory does sampling take beside what it needs on paper?

    python benchmarks/memory.py [--quick] [--device cuda]

Codes only: the tokenizer decodes after the generator's cache is gone, and in float32 whatever the
generator is in. Every case runs in a process of its own, with random weights, through the engine
inside `packed`. On a CPU the figure is the growth of resident memory from before the model is made
to the peak; imports and a first sampling with a tiny model come before that and are reported as
`baseline_MB`. On CUDA it is `torch.cuda.max_memory_allocated`, and nothing is packed.
On paper: weights; the packed copy, counted (all weights but embeddings and norms, in the layout of
this processor); the cache of all branches; activations, the larger of a layer's and of a draw's
tensors that live at one time.
MAR draws the last four of the published 256 reveal steps, which read the most.
`ratio` is measured / paper; the target is 0.85 to 1.15. A table goes to stderr.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from common import report
from smalti.codes import Cond
from smalti.devices.named import cache_dtype
from smalti.engine import LOOPS
from smalti.engine.step import Known, Request
from smalti.heads.diffusion import MODULATED
from smalti.models import llamagen, mar
from smalti.models.llamagen import LlamaGen, LlamaGenConfig
from smalti.models.mar import MAR, MARConfig
from smalti.nn.linear import copied_bytes, packed
from smalti.recipes.llamagen import emoji_llamagen, llamagen_b
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal

CASES = [("emoji_llamagen", 64), ("llamagen_b", 1), ("llamagen_b", 8)]  # model, images
CASES += [("mar_b", 1), ("mar_b", 8)]
RECIPES = {"emoji_llamagen": emoji_llamagen, "llamagen_b": llamagen_b}
UNKNOWN = 4
"""Positions that MAR has yet to draw."""
STACKS = ("encoder_layers", "decoder_layers")
TERMS = ("weights", "packed", "cache", "activations")
MB = 1e6


class System(NamedTuple):
    """A generator, and a very small one of its kind."""

    module: type[nn.Module]
    config: Any
    tiny: Any


def system(name: str) -> System:
    if name in RECIPES:
        return System(LlamaGen, RECIPES[name]().model, llamagen.tiny())
    return System(MAR, MARConfig(**mar.SIZES["B"]), mar.tiny())


def build(module: type[nn.Module], config: Any, dtype: torch.dtype, device: str) -> Any:
    """A model made in its dtype, so that no float32 copy counts."""
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = module(config).eval()
    torch.set_default_dtype(torch.float32)
    if isinstance(model, LlamaGen):
        nn.init.normal_(model.head.proj.weight, std=0.02)
    return model


def sample(model: Any, name: str, batch: int, device: str) -> None:
    cond = Cond(labels=torch.zeros(batch, dtype=torch.int64, device=device))
    noise = Noise.request(0, batch, device=device)
    with packed(model):
        if isinstance(model, MAR):
            known = torch.arange(model.spec.positions, device=device) >= UNKNOWN
            given = Known(model.spec.empty(batch, device), known.expand(batch, -1))
            guidance, reveal = Guidance(2.9, "linear"), Reveal(UNKNOWN)
            request = Request(cond, noise, guidance, known=given, reveal=reveal)
        else:
            request = RECIPES[name]().sampling.request(model, cond, noise)
            assert not request.guidance.off
        for _ in LOOPS[model.loop](model, request):
            pass


def paper_llamagen(
    config: LlamaGenConfig, batch: int, dtype: torch.dtype, device: str, top_p: float
) -> dict[str, int]:
    """The terms in bytes, for two branches."""
    rows, size = 2 * batch, dtype.itemsize
    kv, width = 2 * config.dim, config.ffn_dim
    length, kept = config.prefix + config.spec.positions, cache_dtype(dtype, torch.device(device))
    linear = config.layers * (4 * config.dim**2 + 3 * config.dim * width)
    linear += config.dim * config.vocab
    tables = (config.vocab + config.classes + 1) * config.dim
    norms = (2 * config.layers + 1) * config.dim
    layer = rows * (3 * width + 6 * config.dim) * size
    # logits in the weights' dtype and in float32, then guided, divided, log-softmax, its mass; and
    # for top-p the sorted values and mass, and two indices of 8 bytes
    per_image = 2 * (size + 4) + 4 * 4 + (4 * 2 + 8 * 2 if top_p < 1 else 0)
    draw = batch * config.vocab * per_image
    return {
        "weights": (linear + tables + norms) * size,
        "cache": config.layers * rows * length * kv * kept.itemsize,
        "activations": max(layer, draw),
    }


def paper_mar(config: MARConfig, batch: int, dtype: torch.dtype, device: str) -> dict[str, int]:
    """The terms in bytes, for two branches; encoder and decoder of one width."""
    dim, ffn, head, size = config.dim, config.encoder.ffn_dim, config.head, dtype.itemsize
    layers = config.encoder_layers + config.decoder_layers
    length, width = config.buffer + config.spec.positions, head.width
    modulation = (3 * head.depth + 2) * width
    linear = layers * (4 * dim**2 + 2 * dim * ffn) + dim**2 + config.channels * dim
    linear += width * (2 * head.depth * width + modulation)  # the head's blocks and their adaLN
    linear += width * (256 + width + dim + 3 * config.channels)  # times, conditions, in and out
    tables = (config.classes + 1 + 2 * length + config.spec.positions + 1) * dim
    vectors = layers * (9 * dim + ffn) + 8 * dim  # norms and biases
    vectors += head.depth * 4 * width + modulation + 4 * width + 2 * config.channels
    # of all rows the input of the stack, of a layer, its norm, queries, keys and values as the
    # product leaves them and as they are read, and what attention gives
    layer = 2 * batch * length * 10 * dim * size
    draw = max(MODULATED, 2 * batch) * (modulation + width) * size
    return {
        "weights": (linear + tables + vectors) * size,
        "cache": 0,
        "activations": max(layer, draw),
    }


def status(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS is resident now, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def child(name: str, batch: int, dtype: torch.dtype, device: str, quick: bool) -> dict[str, Any]:
    module, config, tiny = system(name)
    sample(build(module, tiny, dtype, device), name, 2, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        baseline = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        baseline = status("VmRSS")
    if quick:
        shorter = STACKS if isinstance(config, MARConfig) else ("layers",)
        config = replace(config, **dict.fromkeys(shorter, 1))
    model = build(module, config, dtype, device)
    built = torch.cuda.memory_allocated() if device == "cuda" else status("VmRSS")
    sample(model, name, batch, device)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")
    if isinstance(config, MARConfig):
        terms = paper_mar(config, batch, dtype, device)
    else:
        top_p = RECIPES[name]().sampling.filters.top_p
        terms = paper_llamagen(config, batch, dtype, device, top_p)
    terms["packed"] = copied_bytes(model)
    return {
        "script": "memory",
        "model": name,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device,
        "baseline_MB": baseline / MB,
        **{f"{k}_MB": v / MB for k, v in terms.items()},
        "paper_MB": sum(terms.values()) / MB,
        "built_MB": (built - baseline) / MB,
        "measured_MB": (peak - baseline) / MB,
        "ratio": (peak - baseline) / sum(terms.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="peak memory of sampling, beside paper")
    parser.add_argument("--quick", action="store_true", help="models of one layer: a trial")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        name, batch, dtype = json.loads(options.case)
        case = child(name, batch, getattr(torch, dtype), options.device, options.quick)
        report(case, options.device)
        return
    columns = ("dtype", *(f"{t}_MB" for t in TERMS), "paper_MB", "measured_MB", "ratio")
    print(f"{'model':18}" + "".join(f"{c:>15}" for c in columns), file=sys.stderr)
    for name, batch in CASES:
        for dtype in ("float32", "bfloat16"):
            command = [sys.executable, __file__, "--device", options.device]
            command += ["--case", json.dumps([name, batch, dtype])]
            command += ["--quick"] * options.quick
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(line, end="", flush=True)
            case = json.loads(line)
            row = "".join(f"{case[c]:>15}" for c in columns)
            print(f"{f'{name} x {batch}':18}{row}", file=sys.stderr)


if __name__ == "__main__":
    main()
