"""The whole way on one command: images, tokenizer, codes, generator, new images."""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from smalti.arguments import choose
from smalti.data.open import open_source
from smalti.data.source import require_captions
from smalti.devices.named import best_device, fast_bf16
from smalti.files import (
    LOCK,
    check_output,
    check_own,
    expand,
    is_json_of,
    lock,
    replacing,
    write_json,
)
from smalti.loading import load
from smalti.pictures import grid, is_own, save_png
from smalti.pipeline.folders import check_pipeline
from smalti.progress import say_threads
from smalti.recipes import DEMOS
from smalti.recipes.base import GeneratorRecipe, TextRecipe, TokenizerRecipe, UnifiedRecipe
from smalti.runs.folder import Report
from smalti.runs.run import measured, train
from smalti.runs.schedule import R, with_steps

QUICK, FEWEST = 0.05, 20
"""Share of the full number of steps in a quick demo, and how many there are at least."""

PLAIN = 0.5
"""Share of the generator's steps on a processor without bfloat16, which takes longer for each."""


def recipes(
    data: str, quick: bool, seed: int, system: str = "llamagen", part: float = 1.0
) -> tuple[TokenizerRecipe, GeneratorRecipe | UnifiedRecipe]:
    """A system's two recipes: the emoji's, on `data`, all of it or a share of the steps, and of the
    generator's steps this part."""
    opened = open_source(data)
    count = len(opened)
    if count < 4:
        raise ValueError(f"{data} has {count} images; the demo needs at least 4")
    share, demo = QUICK if quick else 1.0, DEMOS[choose(system, DEMOS, "system")]
    first, second = demo.tokenizer(), demo.generator()
    if isinstance(second, TextRecipe | UnifiedRecipe):
        require_captions(opened)
    source = data
    if isinstance(second, UnifiedRecipe):  # names and pictures, either from the other
        source = f"captioned:{data}"
    return (
        of_source(shortened(first, share, seed), data),
        of_source(shortened(second, share * part, seed), source),
    )


def of_source(recipe: R, source: str) -> R:
    """The recipe on the pictures of a source, which it cuts and mirrors as it does its own."""
    return replace(recipe, data=replace(recipe.data, source=source))


def shortened(recipe: R, share: float, seed: int) -> R:
    """The recipe for a share of its steps, with two evaluations, previews and checkpoints."""
    short = with_steps(recipe, max(FEWEST, round(recipe.train.steps * share)))
    half = math.ceil(short.train.steps / 2)  # the second at the very end
    train = replace(short.train, seed=seed, save_every=half, preview_every=half, eval_every=half)
    return replace(short, train=train)


def demo(
    data: str = "emoji",
    out: Path = Path("demo"),
    quick: bool = False,
    seed: int = 0,
    system: str = "llamagen",
) -> Any:
    """Train both parts on `data`, draw, and write samples.png, reconstructions.png, report.json and
    pipeline/ into `out`. Returns the report."""
    out = expand(out)
    check(out)
    with lock(out / LOCK, out):
        return _demo(data, out, quick, seed, system)


def _demo(data: str, out: Path, quick: bool, seed: int, system: str) -> Any:
    began, device = time.monotonic(), best_device()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    plain = device.type == "cpu" and not fast_bf16(device)
    first, second = recipes(data, quick, seed, system, PLAIN if plain else 1.0)
    report = introduction(first, system, plain, quick, console)
    report["tokenizer"] = learn_codes(first, out, console)
    report["generator"] = learn_to_predict(second, out, DEMOS[system].predicts, console)
    report["sampling_images_per_s"] = draw(out, seed, console)
    seconds = time.monotonic() - began
    report |= {"seconds": seconds, "peak_memory_gib": peak_memory_gib(), "seed": seed}
    write_json(out / "report.json", report)
    texts = isinstance(second, TextRecipe | UnifiedRecipe)
    about = '--text "..."' if texts else "--classes 0"
    console.print(
        f"done in {seconds:.0f} s. Look at {out}/samples.png and "
        f"{out}/reconstructions.png; the numbers are in {out}/report.json.\n"
        f"Next:\n"
        f"  smalti sample {out}/pipeline {about} --n 16 --guidance 3 --out more.png\n"
        f"  smalti demo --data folder:PATH --out mine      your own images\n"
        f"  smalti train --help                            every recipe",
        markup=False,
    )
    return report


def check(out: Path) -> None:
    """Raise ValueError if what a demo writes would take the place of somebody's files."""
    check_output(out, folder=True)
    for name in ("samples.png", "reconstructions.png"):
        check_own(out / name, is_own)
    check_own(out / "report.json", lambda path: is_json_of(path, ("tokenizer", "generator")))
    check_pipeline(out / "pipeline")


def introduction(
    first: TokenizerRecipe, system: str, plain: bool, quick: bool, console: Console
) -> dict[str, Any]:
    """Say what is to come and how long it takes; what of it belongs into the report."""
    data, spec, size = first.data.source, first.model.spec, first.model.size[0]
    source = open_source(data)
    console.print(
        f"[bold]smalti demo[/] of {system}: {len(source)} images of {data} at {size} pixels, "
        f"{len(source.classes)} classes"
    )
    if source.credit:
        console.print(source.credit)
    if not quick and (minutes := DEMOS[system].minutes):
        fast, slow = minutes
        here = f" as here, where the generator trains {PLAIN:.0%} of its steps" if plain else ""
        console.print(
            f"It takes about {fast} minutes on two free cores with AVX-512 and bfloat16, about "
            f"{slow} on two without{here}."
        )
    say_threads()
    return {
        "system": system,
        "data": data,
        "images": len(source),
        "classes": len(source.classes),
        "pixels": size,
        "codes_per_image": spec.positions,
        "vocab": spec.vocab,
        "channels": spec.channels,
    }


def learn_codes(recipe: TokenizerRecipe, out: Path, console: Console) -> Report:
    """Train the tokenizer; its report."""
    spec = recipe.model.spec
    scales = f"{len(spec.grids)} scales, " if len(spec.grids) > 1 else ""
    what = spec.words
    console.print(
        f"[bold]1 of 4[/] a tokenizer learns to write an image as {scales}{spec.positions} codes "
        f"{what}, and to read it back"
    )
    report = train(recipe, out / "tokenizer-run")
    used = f"; {report['held_out_usage']:.0%} of the codes occur in them" if spec.discrete else ""
    console.print(f"  held-out images come back at {report['held_out_psnr']:.2f} dB{used}")
    previews = sorted((out / "tokenizer-run" / "previews").glob("*.png"))
    with replacing(out / "reconstructions.png") as temporary:
        temporary.write_bytes(previews[-1].read_bytes())
    return report


def learn_to_predict(
    recipe: GeneratorRecipe | UnifiedRecipe, out: Path, what: str, console: Console
) -> Report:
    """Train the generator on the codes of the images, which the run writes first; its report."""
    console.print("[bold]2 of 4[/] the images are written as codes")
    console.print(f"[bold]3 of 4[/] a generator learns to predict {what}")
    tokenizer = str(out / "tokenizer-run" / "tokenizer")
    report = train(replace(recipe, tokenizer=tokenizer), out / "generator-run")
    console.print(f"  {learnt(report)}")
    return report


def draw(out: Path, seed: int, console: Console) -> float:
    """Draw samples.png and write the pipeline; images drawn per second."""
    console.print("[bold]4 of 4[/] new images are drawn")
    pipeline = load(out / "generator-run" / "pipeline")
    began, source = time.monotonic(), str(pipeline.info["source"]).removeprefix("captioned:")
    named = None if pipeline.classes else captions(source, 64)
    images = pipeline(named, n=64, seed=seed)
    seconds = time.monotonic() - began
    tags = {"images": [image.info["smalti"] for image in images]}
    save_png(grid(images, 8, zoom=2), out / "samples.png", tags)
    pipeline.save_pretrained(out / "pipeline")
    return len(images) / seconds


def captions(data: str, count: int) -> list[str]:
    """At most so many captions, all different, spread over a source."""
    source = open_source(data)
    every = sorted({source.caption(i) for i in range(len(source))} - {""})
    return every[:: -(-len(every) // count)]


def learnt(report: Report) -> str:
    """A sentence on a generator's report."""
    if "held_out_bits_per_byte" in report:
        return measured(report)
    if "held_out_diffusion_loss" in report:
        return f"the diffusion loss of held-out codes is {report['held_out_diffusion_loss']:.3f}"
    bits, most = report.get("held_out_bits_per_token"), ""
    if bits is None:
        bits, most = report["held_out_bits_per_token_bound"], "at most "
    below = f"{report['below_unigram']:.0%} below their frequencies alone"
    return f"held-out codes take {most}{bits:.2f} bits each, {below}"


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, GiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
