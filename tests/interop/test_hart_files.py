"""HART's files: folders as published, from tensors back to the config, mistakes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import build, models
from official import official, write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.convert import build as assembled
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.hart import (
    MODEL,
    PROJECT,
    TOKENIZER,
    HARTFiles,
    drawn,
    model_sizes,
    model_state,
    read,
    vae_sizes,
    vae_state,
)
from smalti.models.hart import HART, SIZES, HARTConfig
from smalti.modules import load_module
from smalti.tokenizers import hart_vae
from smalti.tokenizers.hart_vae import HARTVAE, hart1024
from smalti.tokenizers.quantize.multiscale import pyramid

SMALL = replace(hart_vae.tiny(), scales=pyramid(1, 2, 4))
TINY, CROSS = (models()[name][1] for name in ("hart", "hart-cross"))
CROSS = replace(CROSS, scales=pyramid(1, 2, 4))
SIDES = ["--scales", "1", "2", "4"]


def published(folder: Path, config: HARTConfig = TINY, **told: Any) -> tuple[Path, Path]:
    """Folders of a tokenizer and a transformer, as they are on the hub."""
    names = folder / "tokenizer", folder / "llm"
    for name in names:
        name.mkdir(parents=True)
    vae = official(build(HARTVAE, SMALL))
    state = {f"vae.{name}": tensor for name, tensor in vae.items()}
    write(state | {"disc.main.0.weight": torch.ones(2)}, names[0] / "pytorch_model.bin")
    heads = {"num_heads": config.heads, "sep_aln_pooling_mode": config.pool, "norm_eps": 1e-6}
    (names[1] / "config.json").write_text(json.dumps(heads | told))
    write(official(build(HART, config)), names[1] / "ema_model.bin")
    write(official(build(HART, config, seed=1)), names[1] / "pytorch_model.bin")
    return names


@pytest.mark.parametrize("config", [TINY, CROSS, replace(CROSS, pool="max", adaln="none")])
def test_folders_as_published_become_what_they_were(config, tmp_path):
    tokenizer, model = published(tmp_path, config)
    options = HARTFiles(tokenizer, model, (1, 2, 4))
    vq, stored = read(tokenizer, "model", ""), read(model, "model", "")
    vae = {name.removeprefix("vae."): t for name, t in vq.state.items() if name[:4] == "vae."}
    codes = vae_sizes(vq._replace(state=vae), options)
    found = model_sizes(stored, options, codes)
    assert replace(codes, size=SMALL.size) == SMALL
    drawing = {"refine_steps": 1, "rest_scale": 0.6, "head": found.head, "gate": found.gate}
    same = replace(config, multiple_of=found.multiple_of, mlp_ratio=found.mlp_ratio, **drawing)
    assert found == same and found.shape == config.shape
    assert (found.head.width, found.head.depth, found.head.clip) == (32, 1, 1.0)
    ours = build(HART, config)
    for name, tensor in assembled(MODEL, stored, found, build(HARTVAE, SMALL)).state_dict().items():
        if not name.startswith("quantize."):
            assert torch.equal(tensor, ours.state_dict()[name]), name


def test_the_moving_average_is_taken_of_a_folder(tmp_path):
    _, folder = published(tmp_path)
    chosen = read(folder, "model", "")
    assert chosen.files[0].name == "ema_model.bin" and chosen.args["num_heads"] == 2
    other = read(folder / "pytorch_model.bin", "model", "")
    assert not torch.equal(chosen.state["head.weight"], other.state["head.weight"])


def test_a_tokenizer_alone(tmp_path):
    tokenizer, _ = published(tmp_path)
    command = ["convert", "hart", "--tokenizer", str(tokenizer), "--out", str(tmp_path / "t")]
    main([*command, *SIDES])
    made, info = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert replace(made.config, size=SMALL.size) == SMALL
    state = build(HARTVAE, SMALL).state_dict() | {"quantize.rest_std": torch.tensor(0.6)}
    assert all(torch.equal(t, state[name]) for name, t in made.state_dict().items())
    assert list(info["files"]) == ["pytorch_model.bin"]


def test_a_second_decoder_is_left_out():
    state = official(build(HARTVAE, SMALL))
    more = state | {"decoder2.conv_in.bias": torch.ones(1), "post_quant_conv2.bias": torch.ones(1)}
    assert vae_state(more).keys() == vae_state(state).keys()


def checkpoint(config: HARTConfig, **args: Any) -> Checkpoint:
    return Checkpoint(Path("x.bin"), official(build(HART, config)), args)


@pytest.mark.parametrize(
    ("options", "args", "message"),
    [
        ({"heads": 3}, {}, "x.bin has 2 heads, got --heads 3"),
        ({"scales": (1, 2, 3)}, {}, "x.bin has scales of sides 1 2 4, got --scales 1 2 3"),
        ({}, {"sep_aln_pooling_mode": "sum"}, "words are pooled by avg or max, got 'sum'"),
    ],
)
def test_options_that_do_not_fit(options, args, message):
    with pytest.raises(ValueError, match=message):
        model_sizes(checkpoint(TINY, **args), HARTFiles(Path("t"), Path("m"), **options), SMALL)


def test_files_that_do_not_fit():
    options = HARTFiles(Path("t"), Path("m"))
    with pytest.raises(ValueError, match="x.bin does not say its heads: give --heads"):
        model_sizes(checkpoint(CROSS), options, SMALL)
    with pytest.raises(ValueError, match="predicts 32 codes of 4 dim.*, the tokenizer has 64 of 4"):
        model_sizes(checkpoint(TINY), options, replace(SMALL, vocab=64))
    broken = checkpoint(TINY)
    del broken.state["lvl_1L"]
    with pytest.raises(ValueError, match="x.bin is no such file of HART: it has no lvl_1L"):
        model_sizes(broken, options, SMALL)


def test_how_the_published_model_draws():
    sampling = drawn(replace(HARTConfig(), **SIZES["700M"]))
    scales = sampling.guidance.scales
    assert len(scales) == 14 and scales[0] == 1 and scales[-1] == scales[-2]
    assert scales[-1] == pytest.approx(1 + 4.5 * 12 / 13)
    assert sampling.filters.smooth and sampling.solver.steps == "8"


def test_the_published_sizes_come_back():
    with torch.device("meta"):
        model = HART(replace(HARTConfig(), **SIZES["700M"]))
        made = official(model)
    stored = Checkpoint(Path("x.bin"), made, {})
    found = model_sizes(stored, HARTFiles(Path("t"), Path("m")), hart1024())
    assert found.shape == model.config.shape and found.text_length == 300
    assert found.spec == model.config.spec and found.adaln == "none"
    assert model_state(made, {}).keys() == {
        name for name in model.state_dict() if not name.startswith("quantize.")
    }


def test_what_is_on_the_hub():
    (name,) = PROJECT.repositories
    assert name == "mit-han-lab/hart-0.7b-1024px" and TOKENIZER.module is HARTVAE
    assert PROJECT.repositories[name].beside == ("llm/config.json",)  # which says what it pools
