"""Meissonic's transformer against outputs of the official code, whose codes are maps and whose
texts have no padding."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load
from torch import Tensor
from torch.nn import functional as F

from builders import generate
from smalti.codes import Cond, Turn
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.meissonic import model_sizes, model_state
from smalti.models.meissonic import Meissonic, MeissonicConfig, Prepared
from smalti.models.meissonic_layers import places
from smalti.sampling.noise import Noise
from smalti.sampling.reveal import Reveal

DEFAULTS: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
    "axes_dims_rope": [16, 56, 56],
    "vocab_size": 8256,
    "codebook_size": 8192,
    "downsample": False,
    "upsample": False,
}
"""Of the official constructor, which reads neither `patch_size` nor `in_channels`."""


def config_of(told: dict[str, Any], grid: tuple[int, int], words: int) -> MeissonicConfig:
    """Our settings of official ones, for texts of so many words."""
    if unknown := told.keys() - DEFAULTS.keys():
        raise ValueError(f"unknown options {sorted(unknown)}")
    told = DEFAULTS | told
    assert told["downsample"] == told["upsample"], "maps of codes come out as they went in"
    joint, pooled = told["joint_attention_dim"], told["pooled_projection_dim"]
    first, second, third = told["axes_dims_rope"]
    return MeissonicConfig(
        grid=grid,
        vocab=told["codebook_size"],
        text_length=words + 1,
        text_dim=max(joint, pooled),
        word_dim=0 if joint >= pooled else joint,
        pooled=pooled,
        joint_layers=told["num_layers"],
        single_layers=told["num_single_layers"],
        heads=told["num_attention_heads"],
        dim=told["num_attention_heads"] * told["attention_head_dim"],
        axes=(first, second, third),
        compress=told["downsample"],
        clock="steps",
        guided=3.5 if told["guidance_embeds"] else None,
    )


def texts_of(io: Vectors, width: int) -> Cond:
    """Words, and behind them the texts as a whole, as one tensor of features."""
    parts = [io["text"], io["pooled"][:, None]]
    text = torch.cat([F.pad(part, (0, width - part.shape[-1])) for part in parts], 1)
    return Cond(text=text, text_mask=torch.ones(text.shape[:2], dtype=torch.bool))


def prepared_of(model: Meissonic, cond: Cond, io: Vectors) -> Prepared:
    """What the model prepares, of the folder's micro-conditions and guidance."""
    if "guidance" in io:
        (guided,) = io["guidance"].float().unique().tolist()
        model.config = replace(model.config, guided=guided)
    prepared, (_, _, whole) = model.prepare(cond), model.texts(cond)
    return replace(prepared, told=model.told(whole, io["micro_conds"].float()))


def as_map(rows: Tensor, grid: tuple[int, int]) -> Tensor:
    return rows.transpose(1, 2).unflatten(2, grid)


@pytest.mark.parametrize("folder", folders("meissonic_transformer"))
@torch.no_grad()
def test_meissonic(folder: Path):
    config, weights, io = load(folder)
    weights, tokens = float32(weights), io["tokens"]
    told = DEFAULTS | config["constructor"]
    grid = (tokens.shape[1], tokens.shape[2])
    settings = config_of(config["constructor"], grid, io["text"].shape[1])
    checkpoint = Checkpoint(folder / "weights.safetensors", weights, {})
    found = model_sizes(checkpoint, grid, settings.axes)
    assert replace(found, text_length=settings.text_length) == settings, "what tensors say"
    model = Meissonic(settings)
    model.load_state_dict(model_state(weights, settings))
    prepared = prepared_of(model.eval(), texts_of(io, settings.text_dim), io)
    inner = (grid[0] // 2, grid[1] // 2) if settings.compress else grid
    io.check("img_ids", places(inner))
    codes = tokens.flatten(1)
    known = codes != told["vocab_size"] - 1
    turn = Turn(known, None, codes.shape[1], left=io["timestep"])
    h = model.hidden(codes.where(known, 0), prepared, turn)
    io.check("logits", as_map(model.head.logits(h), grid))
    io.done()


@pytest.mark.parametrize("folder", folders("meissonic_transformer"))
@torch.no_grad()
def test_the_loop_says_how_many_steps_are_left(folder: Path):
    """The last step of a drawing is what one pass says of timestep 0 with all others known."""
    config, weights, io = load(folder)
    grid = (io["tokens"].shape[1], io["tokens"].shape[2])
    settings = config_of(config["constructor"], grid, io["text"].shape[1])
    model, seen = Meissonic(settings), []
    model.load_state_dict(model_state(float32(weights), settings))
    model.eval().time_embed.register_forward_pre_hook(lambda _, x: seen.append(x[0][:, 128:]))
    cond = texts_of(io, settings.text_dim)
    generate(model, cond, Noise.request(0, cond.batch), reveal=Reveal(4, "meissonic", 2.0))
    times = torch.tensor([3000.0, 2000.0, 1000.0, 0.0])
    torch.testing.assert_close(torch.cat(seen)[:, 0], times.sin(), rtol=0, atol=1e-6)
