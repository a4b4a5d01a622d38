"""Schedules follow the steps: by one rule, and not at all where the steps are the recipe's own."""

import hashlib
import json
import re
from dataclasses import replace

import pytest

from smalti.cli.main import main
from smalti.config import to_dict
from smalti.files import write_json
from smalti.recipes import RECIPES
from smalti.recipes.llamagen import emoji_vqgan, llamagen_vq16
from smalti.recipes.rar import emoji_rar, rar_b
from smalti.recipes.taming import taming_gumbel
from smalti.recipes.var import var_d16
from smalti.runs.schedule import follow, with_steps
from smalti.train.log import read_metrics

REPRS = {
    "emoji_fluid": "9292818c13da4e91",
    "emoji_fluid_t2i": "ea604f1fd30d0b5e",
    "fluid_150m": "68f3d36d38ac34ba",
    "fluid_150m_raster": "e4514fa7cb806cf7",
    "fluid_369m": "24991a2d245b34dc",
    "fluid_665m": "48cd0bfd9cfe36b4",
    "fluid_1b": "e3f47a533d6e1bb2",
    "fluid_3b": "23ece758b8e27559",
    "fluid_10b": "3eda559bca6f534e",
    "emoji_vqgan": "6c2e9a7a4b8443b9",
    "emoji_llamagen": "9c1bbefacc36a8b0",
    "llamagen_vq16": "24dde9afbfbdc5aa",
    "llamagen_vq8": "f0f3a4fbd82a9f53",
    "llamagen_b": "e062558ad6d7ce8d",
    "llamagen_l": "6fe8b58e421beccc",
    "llamagen_xl": "97644cc9ad833f1d",
    "llamagen_xxl": "d83c42380156d351",
    "llamagen_1b": "ac9bb32f221f22e8",
    "llamagen_3b": "eece2d92ea8c96e4",
    "llamagen_7b": "cd9f10e407049d4b",
    "emoji_klvae": "46f1eeb782a5ccbf",
    "emoji_mar": "245375c518612807",
    "kl16": "3092827023e6e1cf",
    "mar_b": "7015ad2f4332193c",
    "mar_l": "bb7611c5505e7011",
    "mar_h": "7e4aae1cecaae150",
    "emoji_maskgit": "6fae6ed82de2d7fa",
    "maskgit": "8f3f05fac4a3bda8",
    "emoji_rar": "39764de9c3e53876",
    "maskgit_vqgan": "a02eae227fb7aff4",
    "rar_b": "f05bf0604e3052be",
    "rar_l": "796f9877af6d2f4f",
    "rar_xl": "5cb6414d0a191c24",
    "rar_xxl": "ee336c627b485615",
    "emoji_msvqvae": "f578fe43d543ece7",
    "emoji_var": "af8e603f7f75003f",
    "var_vqvae": "7a1a14b1badd0d54",
    "var_d16": "e84b4a80090ee97b",
    "var_d20": "d5ffa0bf7ec93155",
    "var_d24": "09211f268cd70f9b",
    "var_d30": "9ce134a9e8bccb5c",
    "var_d36_512": "2770711f5a175621",
    "shapes_vqgan": "212b5edb15f12305",
    "shapes_t2i": "7f3f8cc4fae62c81",
    "emoji_t2i": "2a002f329342d5eb",
    "llamagen_t2i_stage1": "48e046bfc7ed1a9f",
    "llamagen_t2i_stage2": "1a3d84d20ac5cde7",
}
"""Of all recipes before schedules followed, apart from eval_every: 16 digits of the sha256."""


@pytest.mark.parametrize("name", REPRS)
def test_recipes_are_what_they_were(name):
    text = re.sub(r"eval_every=\d+", "eval_every=0", repr(RECIPES[name]()))
    for later in (
        ", shift=0",
        ", on_changed='stop'",
        ", joint=1.0",
        ", known_weight=0.0",
        ", depth=0",
        ", depth_layers=1",
        ", depth_dim=0",
        ", decay=0.0",
        ", guidance_pictures=None",
        ", parallel='off', window=0",
        ", eps=1e-08",
        ", deep_attention=True, attention_at=(), unit=False",
        ", plain_codes=False",
        ", memory=0.0",
        ", compile='auto'",
        ", prune=(), prune_layers=0.5",
        ", gumbel=False, map='', kinds=0",
        ", relaxed=RelaxedConfig(kl=1e-08, temperature=0.9, final_temperature=1e-06, "
        "temperature_steps=1000000)",
        ", map=''",
        ", wordings=False",
        ", projected=False",
        ", head_heads=0",
        ", ffn_dim=0, gelu='sigmoid'",
        ", log='auto'",
        ", final_temperature=None",
    ):
        text = text.replace(later, "")  # fields that came later
    text = text.replace("guidance_parallel", "parallel")  # its name of today
    text = re.sub(r"(MaskBitConfig\(.*?), text_length=0, text_dim=256", r"\1", text)
    text = re.sub(r"(MARConfig\(.*?), norm_eps=1e-06", r"\1", text)
    text = re.sub(r"((?:LlamaGen|RAR|VAR|MaskGIT)Config\(.*?vocab=\d+), channels=0", r"\1", text)
    first, later = r"(, attention=\w+, dropout=[\d.]+)", r"(, vocab=\d+, dim=\d+, l2_norm=\w+)"
    text = re.sub(r"(VQGANConfig\(.*?)" + first + later, r"\1\3\2", text)  # they changed places
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == REPRS[name]


@pytest.mark.parametrize("name", [n for n in RECIPES if n != "tokenizer_text"])
def test_a_recipe_of_its_own_steps_is_itself(name, tmp_path):
    recipe = RECIPES[name]()
    assert with_steps(recipe, recipe.train.steps) == recipe
    assert follow(recipe, recipe, {"out"}, tmp_path) == (recipe, "")


@pytest.mark.parametrize("name", [n for n in RECIPES if n.startswith(("emoji", "shapes"))])
def test_small_recipes_are_evaluated_five_times(name):
    train = RECIPES[name]().train
    assert train.eval_every == train.steps // 5


def test_points_keep_their_share_of_the_training():
    rar = with_steps(emoji_rar(), 354)
    assert (rar.objective.random_until, rar.objective.random_end) == (177, 266)
    assert (rar.train.steps, rar.train.optim.warmup) == (354, 10)
    longer = with_steps(rar_b(), 500_000)
    assert (longer.objective.random_end, longer.train.optim.warmup) == (375_000, 125_000)
    var = with_steps(var_d16(), var_d16().train.steps // 10).train.optim
    assert (var.warmup, var.hold) == (667, 1635)
    assert with_steps(llamagen_vq16(), 40_000).objective.gan_start == 2000


def test_codes_that_are_drawn_grow_sure_by_the_end():
    short = with_steps(taming_gumbel(), 100_000).objective.relaxed
    assert short.temperature_at(100_000) == pytest.approx(1e-6)
    assert short.temperature_at(0) == 0.9
    unused = replace(emoji_vqgan().objective.relaxed, temperature_steps=1_000_000)
    assert with_steps(emoji_vqgan(), 100).objective.relaxed == unused


def test_intervals_leave_five_evaluations_and_no_fewer_checkpoints():
    short, long = with_steps(emoji_rar(), 300).train, with_steps(emoji_rar(), 35_400).train
    assert (short.eval_every, short.preview_every, short.save_every) == (60, 150, 150)
    assert (long.eval_every, long.preview_every, long.save_every) == (7080, 17_700, 1770)
    trial = with_steps(rar_b(), 1000).train
    assert (trial.eval_every, trial.preview_every, trial.save_every) == (200, 200, 200)
    one = with_steps(emoji_rar(), 1).train
    assert (one.eval_every, one.preview_every, one.save_every) == (1, 1, 1)


@pytest.mark.parametrize(("steps", "warmup"), [(15, 3), (3, 0), (800, 20), (80_000, 20)])
def test_the_start_of_a_codebook_comes_before_a_quarter(steps, warmup):
    assert with_steps(emoji_vqgan(), steps).objective.codebook.warmup == warmup


def test_what_was_named_stays_and_the_rest_is_said(tmp_path):
    default = emoji_rar()
    given = replace(default, train=replace(default.train, steps=300))
    named = {"train.steps", "train.optim.warmup", "train.save_every"}
    recipe, line = follow(given, default, named, tmp_path / "run")
    assert recipe.train.optim.warmup == 100 and recipe.train.save_every == 1770
    assert recipe.objective.random_end == 225 and recipe.train.preview_every == 150
    assert line == (
        "schedules follow the 300 steps: objective.random_until 150, objective.random_end 225"
    )


def test_a_run_keeps_the_schedules_that_it_began_with(tmp_path):
    default = emoji_rar()
    begun = with_steps(default, 300)
    write_json(tmp_path / "recipe.json", to_dict(begun))
    longer = replace(default, train=replace(default.train, steps=600))
    recipe, line = follow(longer, default, {"train.steps"}, tmp_path)
    assert line == "" and recipe == replace(begun, train=replace(begun.train, steps=600))
    old = json.loads((tmp_path / "recipe.json").read_text())
    old["train"]["optim"]["warmup"] = 100  # as smalti wrote it before
    write_json(tmp_path / "recipe.json", old)
    same = replace(default, train=replace(default.train, steps=300))
    recipe, line = follow(same, default, {"train.steps"}, tmp_path)
    assert line == "" and recipe.train.optim.warmup == 100


def run(*arguments):
    main(["train", *map(str, arguments)])


@pytest.mark.usefixtures("float32")
def test_a_few_steps_of_small_recipes(tmp_path, capsys):
    """The commands that gave "objective.random_end must be at most" and "codebook.warmup"."""
    small = "--data.source shapes:40 --train.steps 3 --train.batch 4 --train.device cpu".split()
    tokenizer = "--model.size 16 16 --model.channels 8 --model.latent 8 --model.vocab 16".split()
    run("emoji_vqgan", *small, *tokenizer, "--out", tmp_path / "t")
    said = capsys.readouterr().err
    assert "schedules follow the 3 steps: train.optim.warmup 0, objective.codebook.warmup 0" in said
    assert f"next: smalti train emoji_llamagen --tokenizer {tmp_path}/t/tokenizer " in said
    assert "--data.source shapes:40 --out runs/generator" in said
    assert "held-out images come back at " in said and " dB; " in said
    assert f"it is in {tmp_path}/t/tokenizer; pictures in {tmp_path}/t/previews" in said
    model = "--model.layers 1 --model.heads 2 --model.dim 16 --model.ffn-dim 16".split()
    given = ("--tokenizer", tmp_path / "t", "--out", tmp_path / "g")
    run("emoji_rar", *small, *model, *given, "--train.preview-every", "0")
    said = capsys.readouterr().err
    objective = json.loads((tmp_path / "g" / "recipe.json").read_text())["objective"]
    assert (objective["random_until"], objective["random_end"]) == (2, 2)
    assert " bits each, " in said and f"next: smalti sample {tmp_path}/g/pipeline --n 16" in said
    steps = {r["step"] for r in read_metrics(tmp_path / "g") if "held_out_bits_per_token" in r}
    assert steps == {1, 2, 3}


def test_a_discriminator_that_never_sets_in_is_said(tmp_path, capsys):
    small = "--data.source shapes:40 --train.steps 1 --train.batch 4 --train.device cpu".split()
    tokenizer = "--model.size 16 16 --model.channels 8 --model.latent 8 --model.vocab 16".split()
    gan = "--objective.gan-weight 0.5 --objective.gan-start 1 --objective.gan-layers 1".split()
    run("emoji_vqgan", *small, *tokenizer, *gan, "--out", tmp_path / "t")
    assert (
        "no discriminator takes part: objective.gan_start 1 is not before the last of 1 steps"
        in (capsys.readouterr().err)
    )
