"""Infinity from recipe to pictures: captions, negative prompts, editing, other grids, LoRA."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from builders import build
from smalti import load
from smalti.cli import demo
from smalti.models import infinity
from smalti.models.infinity import Infinity
from smalti.models.var import VAR
from smalti.modules import save_module
from smalti.pipeline.sampling import Sampling
from smalti.recipes import RECIPES
from smalti.recipes.base import TextRecipe
from smalti.recipes.infinity import emoji_bsq, emoji_infinity
from smalti.recipes.var import emoji_var
from smalti.runs.run import train
from smalti.text import byte_words as byte_level
from smalti.tokenizers.infinity import InfinityVAE
from smalti.tokenizers.infinity import tiny as tiny_vae
from smalti.tokenizers.quantize.multiscale import pyramid
from smalti.train.lora import LoraConfig
from smalti.train.settings import TrainConfig

TRAIN = TrainConfig(steps=3, batch=4, device="cpu", precision="fp32", eval_every=0, preview_every=0)


def recipe(folder) -> TextRecipe:
    """A run of shapes and their captions on the codes of a random tokenizer."""
    save_module(build(InfinityVAE, tiny_vae()), folder / "t")
    base = emoji_infinity()
    return replace(
        base,
        tokenizer=str(folder / "t"),
        data=replace(base.data, source="shapes:24"),
        model=replace(infinity.tiny(), scales=((1, 1), (3, 3))),  # which the tokenizer decides
        text=byte_level.tiny(),
        sampling=Sampling.of(guidance=2.0),
        train=TRAIN,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    report = train(recipe(folder), folder / "run")
    return folder, report


def test_captions_are_learned_and_drawn(run):
    folder, report = run
    assert report["held_out_bits_per_token"] > 0 and "below_unigram" in report
    pipe = load(folder / "run" / "pipeline")
    config = pipe.model.config
    assert config.scales == tiny_vae().scales and config.bits == 6
    assert (config.text_length, config.text_dim) == (12, 16)
    first = pipe(["a red heart", "a star"], seed=3)
    assert pipe(["a star"], seed=3, first=1)[0].tobytes() == first[1].tobytes()
    away = pipe(["a red heart", "a star"], seed=3, negative="a small blue ring")
    assert [a.info["smalti"]["negative"] for a in away] == ["a small blue ring"] * 2


def test_a_part_is_painted_anew(run):
    pipe = load(run[0] / "run" / "pipeline")
    picture = Image.new("RGB", (16, 16), "red")
    mask = np.zeros((16, 16), bool)
    mask[8:] = True
    kept = pipe.edit(picture, mask, text="a star", seed=1, keep_pixels=True)[0]
    assert (np.asarray(kept)[:4] == np.asarray(picture)[:4]).all()
    assert (np.asarray(kept)[12:] != np.asarray(picture)[12:]).any()


def test_a_run_goes_on_with_other_scales(run, tmp_path):
    folder, _ = run
    pipe = folder / "run" / "pipeline"
    begun = load(pipe)
    wide = replace(tiny_vae(), size=(24, 24), scales=pyramid(1, 3, 6))
    other = InfinityVAE(wide)
    other.load_state_dict(begun.tokenizer.state_dict())
    save_module(other, tmp_path / "t")
    more = replace(recipe(tmp_path / "x"), init=str(pipe), tokenizer=str(tmp_path / "t"))
    train(more, tmp_path / "run")
    after = load(tmp_path / "run" / "pipeline")
    assert after.model.spec.grids == wide.scales
    assert after(["a star"])[0].size == (24, 24)
    assert after.model.start_pos.shape == begun.model.start_pos.shape


def test_lora(run, tmp_path):
    pipe = run[0] / "run" / "pipeline"
    more = replace(recipe(tmp_path / "x"), tokenizer="", init=str(pipe), lora=LoraConfig(rank=2))
    train(more, tmp_path / "run")
    before, after = (p.model.state_dict() for p in (load(pipe), load(tmp_path / "run/pipeline")))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"layers.0.cross.wkv.weight", "text_proj.0.weight"} <= moved
    assert not {n for n in moved if n.startswith(("null", "head.", "scale_embedding"))}


def test_a_demo_draws_from_captions(monkeypatch, tmp_path):
    first, second = demo.recipes("shapes:24", True, 0, "infinity")
    assert isinstance(second, TextRecipe) and second.text == emoji_infinity().text
    assert first.model == emoji_bsq().model
    some = demo.captions("shapes:40", 8)
    assert 4 < len(some) == len(set(some)) <= 8
    with pytest.raises(ValueError, match="the images of folder:.* have no captions"):
        for i in range(4):
            Image.new("RGB", (20, 20)).save(tmp_path / f"{i}.png")
        demo.recipes(f"folder:{tmp_path}", True, 0, "infinity")


def test_what_recipes_say_of_themselves():
    ours, theirs = emoji_infinity().model, emoji_var().model
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in m.layers.parameters()) for m in (Infinity(ours), VAR(theirs))
        ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.15)
    assert ours.scales == emoji_bsq().model.scales and ours.bits == emoji_bsq().model.bits
    for name in ("infinity_125m", "infinity_2b_stage1", "infinity_2b_stage3", "infinity_8b_stage1"):
        made = RECIPES[name]()
        assert made.text.length == made.model.text_length == 512
        assert made.sampling.filters.top_p == 0.97
