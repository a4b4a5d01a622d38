"""What bits buy: tokenizers that store a picture in equally many bits, for `comparison.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smalti import modules
from smalti.cli.demo import QUICK, shortened
from smalti.config import read_json
from smalti.recipes.base import DataConfig, TokenizerRecipe
from smalti.recipes.ibq import emoji_fsq, emoji_ibq
from smalti.recipes.infinity import emoji_bsq
from smalti.recipes.llamagen import emoji_vqgan
from smalti.recipes.magvit2 import emoji_lfq
from smalti.recipes.var import emoji_msvqvae
from smalti.runs import ladder
from smalti.runs.run import train


@dataclass(frozen=True)
class Kind:
    """A tokenizer, and the systems of the page that draw its codes."""

    words: str
    recipe: Callable[[], TokenizerRecipe]
    systems: tuple[str, ...] = ()
    yardstick: str = ""
    """The kind with a plain table that has equally many bits; empty: it is one itself."""


def emoji_bsq_8bits() -> TokenizerRecipe:
    """`emoji_bsq` with as many bits as `emoji_msvqvae` has."""
    recipe = emoji_bsq()
    return replace(recipe, model=replace(recipe.model, bits=8))


KINDS = (
    Kind("VQ, a table of 512", emoji_vqgan, ("llamagen", "rar", "maskgit")),
    Kind("IBQ, a table of 512 of which every row learns", emoji_ibq, ("ibq",), "emoji_vqgan"),
    Kind("FSQ, three numbers of 8 levels", emoji_fsq, (), "emoji_vqgan"),
    Kind("LFQ, 9 signs", emoji_lfq, ("magvit2", "maskbit"), "emoji_vqgan"),
    Kind("multi-scale VQ, a table of 256", emoji_msvqvae, ("var",)),
    Kind("multi-scale BSQ, 8 signs", emoji_bsq_8bits, (), "emoji_msvqvae"),
    Kind("multi-scale BSQ, 12 signs", emoji_bsq, ("infinity",)),
)


def rates(data: str, quick: bool, out: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each kind what it stores, how well pictures come back, and what its codes cost a trained
    generator. Trains the tokenizers that are not in `out` yet."""
    found = list[dict[str, Any]]()
    for kind in KINDS:
        recipe, run = kind.recipe(), out / kind.recipe.__name__
        if not (run / "report.json").exists():
            if quick:
                recipe = replace(recipe, train=replace(recipe.train, batch=4))
            recipe = shortened(recipe, QUICK if quick else 1.0, 0)
            train(replace(recipe, data=DataConfig(source=data, flip=True)), run)
        told = read_json(run / "report.json")
        tokenizer = modules.module_of(recipe.model, modules.TOKENIZERS)
        spec = tokenizer.spec
        drawn = {name: facts[name]["bits_per_image"] for name in kind.systems}
        found.append(
            {
                "case": f"at equal bits: {kind.words}",
                "recipe": kind.recipe.__name__,
                "yardstick": kind.yardstick,
                "tokenizer": kind.words,
                "codes": f"{spec.positions} {spec.words.removeprefix('out ')}",
                "raw_bits": spec.bits * spec.positions,
                "bits": spec.bits,
                "parameters": ladder.learned(tokenizer),
                "psnr": told["held_out_psnr"],
                "entropy_bits": told["held_out_entropy_bits"],
                "drawn": drawn,
                "bounds": [name for name in kind.systems if facts[name]["bound"]],
            }
        )
    return found
