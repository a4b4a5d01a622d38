"""What is said at the end of a run."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from smalti.recipes.base import DataConfig
from smalti.recipes.fluid import emoji_fluid_t2i
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan, llamagen_vq16
from smalti.recipes.mar import emoji_klvae
from smalti.recipes.rar import maskgit_vqgan
from smalti.recipes.var import emoji_msvqvae, var_vqvae
from smalti.runs.run import ending, measured, train_command
from smalti.tokenizers.base import TokenizerConfig


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (
            {"held_out_psnr": 24.7612, "held_out_usage": 0.934},
            "held-out images come back at 24.76 dB; 93% of the codes occur in them",
        ),
        ({"held_out_psnr": 26.0}, "held-out images come back at 26.00 dB"),
        (
            {"held_out_bits_per_token": 5.405, "below_unigram": 0.387},
            "held-out codes take 5.41 bits each, 39% below what their frequencies alone tell",
        ),
        (
            {"held_out_bits_per_token_bound": 9.0, "below_unigram": -0.06},
            "held-out codes take at most 9.00 bits each, 6% above what their "
            "frequencies alone tell",
        ),
        (
            {"held_out_diffusion_loss": 0.37667},
            "the diffusion loss of held-out codes is 0.377",
        ),
        (
            {"held_out_text": 5.5, "held_out_codes": 6.1832, "held_out_bits_per_byte": 1.25},
            "held-out text takes 1.250 bits a byte; a position of held-out pictures loses "
            "6.183 of codes",
        ),
        (  # of documents without a text that is learned
            {"held_out_text": 5.5, "held_out_codes": 6.1832},
            "a position of held-out pictures loses 6.183 of codes",
        ),
    ],
)
def test_a_few_numbers_with_their_units(report, words):
    assert measured(report) == words


@pytest.mark.parametrize(
    ("recipe", "following"),
    [
        (emoji_vqgan, "train emoji_llamagen --tokenizer run/tokenizer --out "),
        (emoji_msvqvae, "train emoji_var --tokenizer run/tokenizer --out "),
        (emoji_klvae, "train emoji_mar --tokenizer run/tokenizer --out "),
        (
            llamagen_vq16,
            "train llamagen_b --tokenizer run/tokenizer --data.source folder:imagenet/train "
            "--data.holdout 0.01 --out ",
        ),
        (var_vqvae, "train var_d16 --tokenizer run/tokenizer --data.source "),
        (maskgit_vqgan, "train rar_b --tokenizer run/tokenizer --data.source "),
        (emoji_llamagen, "sample run/pipeline --n 16 --out samples.png"),
        (emoji_fluid_t2i, 'sample run/pipeline --text "..." --n 16 --out samples.png'),
    ],
)
def test_the_command_that_comes_next(recipe, following):
    report = {"steps": 800, "held_out_psnr": 22.4}
    first, where, following_line, plot = ending(recipe(), Path("run"), report).splitlines()
    assert first.startswith("done after 800 steps: held-out images come back at 22.40 dB")
    part = following.split("run/")[1].split()[0]
    assert where == f"it is in run/{part}; pictures in run/previews, all numbers in run/report.json"
    assert following_line.startswith(f"next: smalti {following}")
    assert plot == "      smalti plot run --out run/curves.png"


def test_the_command_that_comes_next_can_be_typed():
    recipe = replace(emoji_vqgan(), data=DataConfig(source="folder:my cats?"))
    *_, following, plot = ending(
        recipe, Path("my run/t"), {"steps": 800, "held_out_psnr": 22.4}
    ).splitlines()
    assert shlex.split(following.removeprefix("next: ")) == [
        *("smalti", "train", "emoji_llamagen", "--tokenizer", "my run/t/tokenizer"),
        *("--data.source", "folder:my cats?", "--out", "runs/generator"),
    ]
    assert shlex.split(plot) == ["smalti", "plot", "my run/t", "--out", "my run/t/curves.png"]


def test_no_recipe_is_named_for_codes_that_none_learns():
    assert "train RECIPE --tokenizer t " in train_command(TokenizerConfig(), Path("t"), "")
