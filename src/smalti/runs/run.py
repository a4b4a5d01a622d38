"""A recipe and a folder in, a trained tokenizer, pipeline, pair of towers or language model out.

A run's folder holds recipe.json, data.parquet and init.json (see `run_data`), metrics.jsonl, what
trackers keep there (`train/trackers.py`), checkpoints/, previews/, and in the end tokenizer/,
pipeline/, towers/ or language/, and report.json. Run again with the same recipe it goes on from the
last checkpoint, and with more steps it goes on longer; a finished run returns its report at once.
One process, or those of one `torchrun`, writes there at a time.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from shlex import quote

from smalti.config import read_json
from smalti.files import LOCK, expand
from smalti.recipes import RECIPES
from smalti.recipes.base import (
    DataConfig,
    GeneratorRecipe,
    LanguageRecipe,
    MapRecipe,
    Recipe,
    RefineRecipe,
    SentencesRecipe,
    TextRecipe,
    TokenizerRecipe,
    TowersRecipe,
    UnifiedRecipe,
)
from smalti.runs.data import warn_of_changes
from smalti.runs.folder import Report, check, say_longer
from smalti.runs.generator import train_generator
from smalti.runs.language import train_language, train_sentences
from smalti.runs.tokenizer import train_tokenizer
from smalti.runs.towers import train_towers
from smalti.runs.unified import train_unified
from smalti.tokenizers.base import TokenizerConfig
from smalti.train.parallel import World, locked, on_main, start, stop
from smalti.train.trackers import require


def train(recipe: Recipe, out: Path, note: str = "") -> Report:
    """Run a recipe to its end in the folder `out` and return the report ({} on other ranks); say
    the note once the work begins.

    Raises ValueError if `out` holds a run of another recipe or of data that has changed, and while
    another process writes there.
    """
    world = start(recipe.train.device)
    try:
        return train_among(recipe, expand(out), world, note)
    finally:
        stop()


def train_among(recipe: Recipe, out: Path, world: World, note: str = "") -> Report:
    """`train` by processes that have joined already."""
    on_main(world, lambda: check(out, recipe))
    report = out / "report.json"
    if report.is_file() and read_json(report).get("steps") == recipe.train.steps:
        if world.main:
            warn_of_changes(out, recipe)
        return read_json(report) if world.main else {}
    on_main(world, lambda: require(recipe.train.log))
    with locked(world, out / LOCK, out):
        if world.main:
            say_longer(out, recipe)
        if isinstance(recipe, TokenizerRecipe):
            return train_tokenizer(recipe, out, world, note)
        if isinstance(recipe, UnifiedRecipe):
            return train_unified(recipe, out, world, note)
        if isinstance(recipe, TowersRecipe):
            return train_towers(recipe, out, world, note)
        if isinstance(recipe, SentencesRecipe):
            return train_sentences(recipe, out, world, note)
        if isinstance(recipe, LanguageRecipe):
            return train_language(recipe, out, world, note)
        return train_generator(recipe, out, world, note)


# -- what to say at the end

PICTURES = ("held_out_codes", "held_out_flow", "held_out_noise", "held_out_features")
"""What models of text and pictures lose of pictures."""
SMALL = 64
"""Up to so many pixels of a side a small recipe is advised, above it a published one."""


def ending(recipe: Recipe, out: Path, report: Report) -> str:
    """Where a finished run has left what, how good it is, and the command that comes next."""
    part = "tokenizer" if isinstance(recipe, TokenizerRecipe) else "pipeline"
    part = "towers" if isinstance(recipe, TowersRecipe) else part
    part = "language" if isinstance(recipe, LanguageRecipe) else part
    blind = isinstance(recipe, UnifiedRecipe) and not recipe.model.drawing
    shown = "" if part == "language" or blind else f"pictures in {out}/previews, "
    where = f"{out}/{part}; {shown}all numbers in {out}/report.json"
    return "\n".join(
        [
            f"done after {report['steps']} steps: {measured(report)}",
            f"it is in {where}",
            f"next: {following(recipe, out)}",
            f"      smalti plot {quote(str(out))} --out {quote(f'{out}/curves.png')}",
        ]
    )


def measured(report: Report) -> str:
    """The numbers of a report that say most, in words."""
    told = {k.removeprefix("held_out_"): v for k, v in report.items() if k in PICTURES}
    pictures = ", ".join(f"{value:.3f} of {name}" for name, value in told.items())
    about = f"a position of held-out pictures loses {pictures}" if pictures else ""
    if "held_out_bits_per_byte" in report:
        text = f"held-out text takes {report['held_out_bits_per_byte']:.3f} bits a byte"
        return f"{text}; {about}" if about else text
    if about:  # no held-out document has a text that is learned
        return about
    if "held_out_image_to_text_1" in report:
        found = (report[f"held_out_{way}_1"] for way in ("image_to_text", "text_to_image"))
        right, back = found
        return f"{right:.1%} of held-out pictures find their text, {back:.1%} of texts a picture"
    if "held_out_other_to_caption_1" in report:
        right, before = (report[f"held_out_other_to_caption_1{end}"] for end in ("", "_before"))
        return f"{right:.1%} of texts find the caption that says the same, {before:.1%} before"
    if "held_out_psnr" in report:
        usage = report.get("held_out_usage")
        used = "" if usage is None else f"; {usage:.0%} of the codes occur in them"
        return f"held-out images come back at {report['held_out_psnr']:.2f} dB{used}"
    if "held_out_diffusion_loss" in report:
        return f"the diffusion loss of held-out codes is {report['held_out_diffusion_loss']:.3f}"
    bits, most = report.get("held_out_bits_per_token"), ""
    if bits is None:
        bits, most = report.get("held_out_bits_per_token_bound"), "at most "
    if bits is None:
        return "nothing that was held out has room in a row"
    below = report["below_unigram"]
    assert isinstance(below, float)
    apart = f"{abs(below):.0%} {'below' if below >= 0 else 'above'}"
    return (
        f"held-out codes take {most}{bits:.2f} bits each, {apart} what their frequencies alone tell"
    )


def following(recipe: Recipe, out: Path) -> str:
    """The command that takes what a run has made, as it is typed."""
    typed = quote(str(out))
    if isinstance(recipe, RefineRecipe):
        return f"smalti repack PIPELINE --tokenizer {typed}/tokenizer --out runs/repacked"
    if isinstance(recipe, TokenizerRecipe) and recipe.model.of_map:
        options = data_options(recipe.data)
        return f"smalti train RECIPE --tokenizer TOKENIZER --map {typed}/tokenizer{options}"
    if isinstance(recipe, TokenizerRecipe):
        return train_command(recipe.model, out / "tokenizer", data_options(recipe.data))
    if isinstance(recipe, SentencesRecipe):
        return f"smalti train shapes_llm2clip --language {typed}/language --out runs/llm2clip"
    if isinstance(recipe, LanguageRecipe):
        return f"smalti train shapes_sentences --init {typed}/language --out runs/sentences"
    if isinstance(recipe, TowersRecipe):
        return f"smalti eval {typed}/towers --metrics zero_shot retrieval"
    if isinstance(recipe, UnifiedRecipe) and not recipe.model.drawing:
        return f'smalti ask {typed}/pipeline "..." --image PICTURE'
    if isinstance(recipe, TextRecipe | UnifiedRecipe):
        return f'smalti sample {typed}/pipeline --text "..." --n 16 --out samples.png'
    if isinstance(recipe, MapRecipe):
        return f"smalti sample {typed}/pipeline --map FILE --n 16 --out samples.png"
    return f"smalti sample {typed}/pipeline --n 16 --out samples.png"


def train_command(config: TokenizerConfig, tokenizer: Path, options: str) -> str:
    """The command that trains a generator on the codes of a tokenizer of this configuration."""
    name, typed = generator_for(config), quote(str(tokenizer))
    return f"smalti train {name} --tokenizer {typed}{options} --out runs/generator"


def generator_for(config: TokenizerConfig) -> str:
    """The recipe of a generator for the codes of such a tokenizer: the first in the file where the
    first recipe of such a tokenizer is, a small one for small images; RECIPE if there is none."""
    made, small = _of_pictures(), config.size[0] <= SMALL
    alike = (RECIPES[n].__module__ for n, r in made.items() if type(r.model) is type(config))
    home = next(alike, None)
    fitting = (
        name
        for name, recipe in made.items()
        if isinstance(recipe, GeneratorRecipe)
        and RECIPES[name].__module__ == home
        and name.startswith("emoji_") == small
    )
    return next(fitting, "RECIPE")


@cache
def _of_pictures() -> dict[str, TokenizerRecipe | GeneratorRecipe]:
    """All recipes of tokenizers and of generators, which take a while to make."""
    every = {name: recipe() for name, recipe in RECIPES.items()}
    return {n: r for n, r in every.items() if isinstance(r, TokenizerRecipe | GeneratorRecipe)}


def data_options(data: DataConfig) -> str:
    """The options that give another recipe the same images."""
    source = "" if data.source == "emoji" else f" --data.source {quote(data.source)}"
    share = "" if data.holdout == DataConfig().holdout else f" --data.holdout {data.holdout:g}"
    return source + share
