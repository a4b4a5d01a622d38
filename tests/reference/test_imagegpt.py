"""ImageGPT and its palette against outputs of transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Vectors, float32, folders, load
from greedy import draws, most_probable, replayed
from PIL import Image
from safetensors.torch import save_file

import smalti
from smalti.cli.main import main
from smalti.codes import Cond
from smalti.data.transforms import to_float
from smalti.engine.causal import spans
from smalti.engine.step import Known
from smalti.interop.projects.imagegpt import gelu_of, model_state
from smalti.models.imagegpt import ImageGPT, ImageGPTConfig
from smalti.sampling.guidance import Guidance
from smalti.tokenizers.palette import Palette, PaletteConfig

FOLDERS = folders("imagegpt")


def nothing(batch: int) -> Cond:
    return Cond.of_labels(torch.full((batch,), -1))


def palette_of(io: Vectors) -> Palette:
    height, width = io["image_uint8"].shape[1:3]
    palette = Palette(PaletteConfig((height, width), len(io["clusters"]))).eval()
    palette.load_state_dict({"quantize.embedding.weight": io["clusters"]})
    return palette


def model_of(config: dict[str, Any], weights: dict[str, torch.Tensor], io: Vectors) -> ImageGPT:
    told = config["constructor"]
    ours = ImageGPTConfig(
        grid=tuple(io["image_uint8"].shape[1:3]),
        vocab=told["vocab_size"] - 1,
        layers=told["n_layer"],
        heads=told["n_head"],
        dim=told["n_embd"],
        ffn_dim=told.get("n_inner") or 0,
        gelu=gelu_of(told.get("activation_function", "quick_gelu")),
        norm_eps=told.get("layer_norm_epsilon", 1e-5),
    )
    model = ImageGPT(ours).eval()
    model.load_state_dict(model_state(float32(weights), ours))
    return model


def check_palette(palette: Palette, io: Vectors) -> None:
    images = to_float(io["image_uint8"].permute(0, 3, 1, 2))
    io.check("pixel_ids", palette.encode(images))
    colours = palette.decode(io["completed_ids"].long())
    pixels = ((colours + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(pixels, io["completed_uint8"])


@torch.no_grad()
def check_model(model: ImageGPT, io: Vectors) -> None:
    codes, cond = io["pixel_ids"], nothing(len(io["pixel_ids"]))
    table = torch.cat((torch.full_like(codes[:, :1], model.config.vocab), codes[:, :-1]), 1)
    assert torch.equal(io["input_ids"], table), "slot 0 holds the start, slot i code i - 1"
    (everything,) = spans([model.spec.positions])
    h = model.hidden(codes, model.prepare(cond), everything)
    io.check("hidden", h)
    logits = model.head.logits(h)
    io.check("logits", logits)
    io.check("loss", model.loss(codes, cond).mean())
    # what transformers returns is of the code after the next
    shifted = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), codes[:, 1:].flatten()
    )
    io.check("loss_hf", shifted)

    completed = io["completed_ids"]
    half = io["half_prompt"].shape[1] - 1  # behind the start
    assert torch.equal(io["half_prompt"][:, 1:], completed[:, :half])
    logits = torch.cat(replayed(model, cond, Guidance(), completed), 1)
    known = torch.zeros_like(completed, dtype=torch.bool)
    known[:, :half] = True
    sure = most_probable(logits[:, half:], completed[:, half:])
    assert sure.any()
    draws(model, cond, Guidance(), completed, sure, known=Known(completed, known))


@pytest.mark.parametrize("folder", FOLDERS)
def test_imagegpt(folder: Path):
    config, weights, io = load(folder)
    check_palette(palette_of(io), io)
    check_model(model_of(config, weights, io), io)
    io.done()


@pytest.mark.parametrize("form", ["json", "npy", "safetensors"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_convert(folder: Path, form: str, tmp_path: Path):
    config, weights, io = load(folder)
    colours = tmp_path / f"preprocessor_config.{form}"
    if form == "json":
        colours.write_text(json.dumps({"clusters": io["clusters"].tolist(), "do_resize": True}))
    elif form == "npy":
        np.save(colours, io["clusters"].numpy())
    else:
        save_file({"clusters": io["clusters"]}, colours)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    height, width = io["image_uint8"].shape[1:3]
    words = ["convert", "imagegpt", "--tokenizer", colours, "--out", tmp_path / "pipe"]
    words += ["--model", tmp_path / "pytorch_model.bin", "--size", f"{height}x{width}"]
    words += ["--dtype", "float32"]
    (tmp_path / "config.json").write_text(json.dumps(config["constructor"]))
    main([str(word) for word in words])
    pipe = smalti.load(tmp_path / "pipe", device="cpu", dtype="float32")
    check_palette(pipe.tokenizer, io)
    check_model(pipe.model, io)
    io.done()
    (image,) = pipe(n=1, seed=0)
    assert isinstance(image, Image.Image) and image.size == (width, height)
