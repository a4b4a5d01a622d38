"""What does each way of writing a picture buy? Every tokenizer at 64 pixels: the page.

    python benchmarks/rate_distortion.py [--quick] [--out DIR] [--docs DIR] [--only NAME ...]
        [--known FILE ...]

Trains a tokenizer of each kind, with encoders of about equal size, for equally many operations, and
a generator on its codes, again for equally many. Finished runs in --out are used again, one that
was cut off goes on. Prints a JSON line for each, and writes rate-distortion.md and its plot into
--docs when all are there. --only trains some of them and writes nothing else. Kinds whose lines
--known holds, printed before, are not trained again. --quick trains few steps: the page then says
nothing, but it is whole.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from common import earlier, machines, report
from comparison import counted, fresh, learned
from rate_distortion_page import page, plot
from smalti.cli.demo import of_source
from smalti.cli.evaluate import Options
from smalti.cli.subjects import report_of
from smalti.config import read_json
from smalti.data.open import open_source
from smalti.recipes.base import (
    AutoencoderRecipe,
    GeneratorRecipe,
    Recipe,
    TextRecipe,
    TokenizerRecipe,
)
from smalti.recipes.dalle import emoji_dalle, emoji_dvae
from smalti.recipes.dcae import emoji_dcae, emoji_dcae_mar
from smalti.recipes.dnd import emoji_dnd
from smalti.recipes.hart import emoji_hart, emoji_hart_vae
from smalti.recipes.ibq import emoji_fsq, emoji_ibq, emoji_ibq_ar
from smalti.recipes.infinity import emoji_bsq64, emoji_infinity64
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.recipes.magvit2 import emoji_lfq, emoji_magvit2
from smalti.recipes.mar import emoji_klvae, emoji_mar
from smalti.recipes.rq import emoji_rq64, emoji_rqt
from smalti.recipes.titok import emoji_titok, emoji_titok_generator, emoji_titok_vae
from smalti.recipes.unitok import emoji_unitok, emoji_unitok_ar
from smalti.recipes.var import emoji_msvqvae, emoji_var
from smalti.runs import ladder
from smalti.runs.generator import fitted, open_encoder
from smalti.runs.run import train
from smalti.runs.schedule import with_steps
from smalti.tokenizers.dcae import HalfConfig

TOKENIZER, GENERATOR = 15e12, 15e12
"""Operations of a training, forward and backward."""
SIZE = (64, 64)


@dataclass(frozen=True)
class Kind:
    """A way of writing a picture: a tokenizer, and the generator that draws its codes."""

    title: str
    holds: str
    """What a position holds, as the page groups them."""
    tokenizer: Callable[[], TokenizerRecipe]
    generator: Callable[[], GeneratorRecipe]


def at64(recipe: Callable[[], TokenizerRecipe], **changes: Any) -> Callable[[], TokenizerRecipe]:
    """A recipe of 32 pixels with a level more, for 64 pixels and the same grid."""

    def made() -> TokenizerRecipe:
        small = recipe()
        levels = (*small.model.multipliers, small.model.multipliers[-1])  # pyright: ignore
        return replace(small, model=replace(small.model, size=SIZE, multipliers=levels, **changes))

    return made


R = TypeVar("R", bound=Recipe)


def of(recipe: Callable[[], R], **changes: Any) -> Callable[[], R]:
    """A recipe with some of the model changed."""

    def made() -> R:
        small = recipe()
        return replace(small, model=replace(small.model, **changes))

    return made


def deep() -> AutoencoderRecipe:
    """`emoji_dcae` with a level more, for 64 pixels and the same grid."""
    small = emoji_dcae()
    half = HalfConfig((16, 32, 64, 128, 128), (0, 1, 1, 1, 1), attention_at=(16,))
    return replace(small, model=replace(small.model, size=SIZE, encoder=half, decoder=half))


KINDS: dict[str, Kind] = {
    "vq": Kind("VQ, 4,096 codes", "one code", at64(emoji_vqgan, vocab=4096), emoji_llamagen),
    "ibq": Kind("IBQ, 4,096 codes", "one code", at64(emoji_ibq, vocab=4096), emoji_ibq_ar),
    "fsq": Kind(
        "FSQ, 4 numbers of 8 levels", "one code", at64(emoji_fsq, levels=(8,) * 4), emoji_llamagen
    ),
    "dvae": Kind("dVAE, 4,096 codes", "one code", at64(emoji_dvae, vocab=4096), emoji_dalle),
    "lfq12": Kind(
        "LFQ, 12 bits",
        "bits",
        at64(emoji_lfq, bits=12),
        of(emoji_magvit2, channels=12, groups=(6, 6)),
    ),
    "lfq18": Kind(
        "LFQ, 18 bits",
        "bits",
        at64(emoji_lfq, bits=18),
        of(emoji_magvit2, channels=18, groups=(6, 6, 6)),
    ),
    "scales": Kind("six scales of 256 codes", "scales", at64(emoji_msvqvae), emoji_var),
    "bsq": Kind("six scales of 16 bits", "scales of bits", emoji_bsq64, emoji_infinity64),
    "rq": Kind("RQ, 4 of 512, depth head", "depth", emoji_rq64, emoji_rqt),
    "rq_dnd": Kind("the same, drawn between layers", "depth", emoji_rq64, emoji_dnd),
    "unitok": Kind("4 sub-codes of 512", "sub-codes", of(emoji_unitok, layers=4), emoji_unitok_ar),
    "hybrid": Kind(
        "six scales of 256 codes and a rest", "a continuous rest", at64(emoji_hart_vae), emoji_hart
    ),
    "kl": Kind("8 numbers", "numbers", at64(emoji_klvae), emoji_mar),
    "tokens32": Kind(
        "TiTok, 32 of 1,024", "a code without a place", emoji_titok, emoji_titok_generator
    ),
    "tokens128": Kind(
        "TiTok, 128 of 1,024",
        "a code without a place",
        of(emoji_titok, tokens=128),
        emoji_titok_generator,
    ),
    "kltokens": Kind(
        "TiTok's VAE, 8 numbers", "numbers without a place", emoji_titok_vae, emoji_mar
    ),
    "deep": Kind("32 numbers of 16 x 16 pixels", "numbers", deep, emoji_dcae_mar),
}


def steps_for(budget: float, operations: float) -> int:
    """How many steps take so many operations: tens, at least ten."""
    return max(10, round(budget / operations, -1).__int__())


def tokenizer_operations(recipe: TokenizerRecipe) -> float:
    """Of a training step of a tokenizer, at the recipe's batch."""
    objective = recipe.objective.objective(fresh(recipe.model).train(), 0, 1000, begun=True)
    images = torch.randint(0, 256, (recipe.train.batch, 3, *SIZE), dtype=torch.uint8)
    batch = {"images": images, "labels": torch.zeros(len(images), dtype=torch.int64)}
    batch["shuffle"] = torch.arange(len(images))
    if objective.reader is not None:
        batch["text_tokens"] = objective.reader.tokenize(["a small picture"] * len(images))
    return ladder.operations(objective, [batch])


def recipes(name: str, data: str) -> tuple[TokenizerRecipe, GeneratorRecipe]:
    """Of a kind, on this data: the generator is one of the tokenizer's codes."""
    kind = KINDS[name]
    first, second = of_source(kind.tokenizer(), data), of_source(kind.generator(), data)
    tokenizer, encoder = fresh(first.model), open_encoder(second, None)
    model = fitted(second.model, tokenizer, len(open_source(data).classes), encoder)
    return first, replace(second, model=model)


def encoder_size(tokenizer: Any) -> int:
    """How many numbers the encoder of a tokenizer has."""
    return sum(p.numel() for name, p in tokenizer.named_parameters() if "encoder" in name)


def trained(name: str, data: str, quick: bool, out: Path) -> dict[str, Any]:
    """Train a kind's tokenizer and generator, or take what is there; what is measured of them."""
    kind, (first, second) = KINDS[name], recipes(name, data)
    tokenizer = fresh(first.model)
    each = tokenizer_operations(first), counted(second)
    budgets = (TOKENIZER, GENERATOR) if not quick else (each[0] * 20, each[1] * 20)
    first = with_steps(first, steps_for(budgets[0], each[0]))
    second = with_steps(second, steps_for(budgets[1], each[1]))
    a, b = out / f"{name.split('_')[0]}-tokenizer", out / f"{name}-generator"
    train(first, a)
    train(replace(second, tokenizer=str(a / "tokenizer")), b)
    return {
        "case": name,
        "title": kind.title,
        "holds": kind.holds,
        "text": isinstance(second, TextRecipe),
        "flip": second.data.flip,
        "steps": (first.train.steps, second.train.steps),
        "operations": (each[0] * first.train.steps, each[1] * second.train.steps),
        "parameters": (learned(first.model), learned(second.model)),
        "encoder": encoder_size(tokenizer),
    } | measured(tokenizer.spec, a, b, data)


def measured(spec: Any, tokenizer: Path, generator: Path, data: str) -> dict[str, Any]:
    """Rate and distortion of two finished runs."""
    told, held = read_json(tokenizer / "report.json"), read_json(generator / "report.json")
    reference = f"{data}@held"
    count = min(1000, len(open_source(data)))
    back = report_of(str(tokenizer / "tokenizer"), Options(reference=reference), {})
    drawn = report_of(str(generator / "pipeline"), Options(reference=reference, n=count), {})

    def wavelets(found: dict[str, Any]) -> tuple[float, list[float]]:
        metric = next(m for m in found["metrics"] if "fwd" in m["metric"])
        return metric["value"], metric["interval"]

    bound = "_bound" if "held_out_bits_per_image_bound" in held else ""
    return {
        "codes": f"{spec.positions} {spec.words.removeprefix('out ')}",
        "raw_bits": None if math.isinf(spec.bits) else spec.bits * spec.positions,
        "bits": held.get(f"held_out_bits_per_image{bound}"),
        "bound": bool(bound),
        "psnr": told["held_out_psnr"],
        "fwd_back": wavelets(back),
        "fwd_drawn": wavelets(drawn),
    }


def real(data: str) -> dict[str, Any]:
    """What pictures that are real measure, of which nothing drawn can be expected to be better."""
    options = Options(reference=f"{data}@held", size=SIZE[0])
    told = report_of(f"{data}@train", options, {})
    metric = next(m for m in told["metrics"] if "fwd" in m["metric"])
    return {"case": "real", "fwd": metric["value"], "interval": metric["interval"]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a trial of some minutes")
    parser.add_argument("--out", type=Path, default=Path("runs/rate-distortion"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--data", default="emoji", help="other pictures, for a trial")
    parser.add_argument("--only", nargs="*", choices=KINDS, help="train these and stop")
    parser.add_argument("--known", nargs="*", type=Path, default=[], help="lines printed before")
    args = parser.parse_args(arguments)
    known = earlier(args.known)
    for name in args.only or KINDS:
        if name not in known:
            known[name] = trained(name, args.data, args.quick, args.out)
            report(known[name])
    if args.only:
        return
    if "real" not in known:
        known["real"] = real(args.data)
        report(known["real"])
    rows = [known[name] for name in KINDS]
    about = machines(rows) | {"data": args.data, "images": len(open_source(args.data))}
    about |= {"real": known["real"]}
    plot(rows, args.docs / "rate-distortion.png")
    (args.docs / "rate-distortion.md").write_text(page(rows, about))


if __name__ == "__main__":
    main()
