"""Fluid from recipe to pictures: both orders, both kinds of codes, classes, texts and LoRA."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from builders import build
from smalti import load
from smalti.config import read_json
from smalti.models import fluid
from smalti.models.llamagen import LlamaGen
from smalti.modules import save_module
from smalti.pipeline.sampling import Sampling
from smalti.recipes.base import GeneratorRecipe, TextRecipe
from smalti.recipes.fluid import emoji_fluid, emoji_fluid_t2i, fluid_150m, raster
from smalti.recipes.llamagen import emoji_llamagen
from smalti.runs.run import train
from smalti.text import byte_words as byte_level
from smalti.tokenizers import kl_vae, vqgan
from smalti.train.lora import LoraConfig
from smalti.train.masked_loss import MaskedConfig
from smalti.train.objectives import LikelihoodConfig
from smalti.train.settings import TrainConfig

TOKENIZERS = {"continuous": (kl_vae.KLVAE, kl_vae.tiny()), "discrete": (vqgan.VQGAN, vqgan.tiny())}
TRAIN = TrainConfig(steps=3, batch=4, device="cpu", precision="fp32", eval_every=0, preview_every=0)
SAMPLING = Sampling.of(guidance=2.0, schedule="linear", head_steps="3")


def recipe(folder, codes: str, order: str) -> GeneratorRecipe:
    """A run of shapes on the codes of a random tokenizer."""
    save_module(build(*TOKENIZERS[codes]), folder / "t")
    base = emoji_fluid()
    return replace(
        base,
        tokenizer=str(folder / "t"),
        data=replace(base.data, source="shapes:24", flip=False),
        model=replace(fluid.tiny(), order=order),
        objective=MaskedConfig() if order == "random" else LikelihoodConfig(),
        sampling=SAMPLING.changed(head_steps="3" if codes == "continuous" else "100"),
        train=TRAIN,
    )


@pytest.mark.parametrize("codes", TOKENIZERS)
@pytest.mark.parametrize("order", ["random", "raster"])
def test_codes_decide_the_head_and_the_recipe_the_order(tmp_path, codes, order):
    report = train(recipe(tmp_path, codes, order), tmp_path / "run")
    config = read_json(tmp_path / "run" / "pipeline" / "model" / "config.json")["config"]
    tokens = TOKENIZERS[codes][0](TOKENIZERS[codes][1]).spec
    assert (config["vocab"], config["channels"]) == (tokens.vocab, tokens.channels)
    bound = "_bound" * (order == "random")
    name = "diffusion_loss" if codes == "continuous" else f"bits_per_token{bound}"
    assert report[f"held_out_{name}"] > 0
    pipe = load(tmp_path / "run" / "pipeline")
    assert (pipe.model.loop == "masked") == (order == "random")
    first, second = pipe(n=2, seed=3), pipe(n=1, seed=3, first=1)
    codes = pipe.codes([0, 1], seed=3), pipe.codes([1], seed=3, first=1)
    torch.testing.assert_close(codes[0][1:], codes[1])  # discrete ones are equal
    apart = [np.abs(np.int16(image) - np.int16(first[1])) for image in (second[0], first[0])]
    assert apart[0].max() <= 1 < apart[1].max()  # alone a decoder rounds otherwise on some machines


def test_the_other_order_needs_the_other_objective(tmp_path):
    wrong = replace(recipe(tmp_path, "discrete", "random"), objective=LikelihoodConfig())
    with pytest.raises(ValueError, match="Fluid is trained by MaskedConfig, got LikelihoodConfig"):
        train(wrong, tmp_path / "run")


@pytest.mark.slow
def test_texts_and_lora(tmp_path):
    base, words = recipe(tmp_path, "continuous", "random"), byte_level.tiny()
    model = replace(base.model, classes=0, text_length=2, aligner_layers=1)
    given = {name: getattr(base, name) for name in ("tokenizer", "data", "objective", "sampling")}
    text = TextRecipe(**given, model=model, text=words, train=TRAIN)
    train(text, tmp_path / "run")
    begun = load(tmp_path / "run" / "pipeline")
    assert (begun.model.config.text_length, begun.model.config.text_dim) == (12, 16)
    assert len(begun(text=["a red heart", "a star"])) == 2
    more = replace(
        text, tokenizer="", init=str(tmp_path / "run" / "pipeline"), lora=LoraConfig(rank=2)
    )
    train(more, tmp_path / "lora")
    before, after = (p.model.state_dict() for p in (begun, load(tmp_path / "lora" / "pipeline")))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"aligner.proj.weight", "layers.0.cross.wkv.weight"} <= moved
    assert not {n for n in moved if n.startswith(("aligner.layers", "aligner.null", "head."))}


def test_what_recipes_say_of_themselves():
    sizes = []
    with torch.device("meta"):
        for model in (fluid.fluid(emoji_fluid().model), LlamaGen(emoji_llamagen().model)):
            sizes.append(sum(p.numel() for p in model.parameters()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    texts, words = emoji_fluid_t2i().model, emoji_fluid_t2i().text
    assert (texts.text_length, texts.text_dim) == (words.length, words.dim)
    ours, theirs = fluid_150m(), raster(fluid_150m())
    assert replace(theirs.model, order="random") == ours.model
    assert isinstance(ours.objective, MaskedConfig) and isinstance(
        theirs.objective, LikelihoodConfig
    )
