"""VAR's golden weights as released files: `smalti convert`, `smalti.load`, golden tensors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import folders, load
from test_rar_convert import content, same
from test_var import check_var
from test_var_vqvae import check as check_vae

import smalti
from official import write
from smalti import registry
from smalti.cli import main
from smalti.interop.var import vae_state, var_state
from smalti.storage import load_module

LAYOUTS = ["flat", "flat-views", "compiled", "old", "trainer"]


def both(model: dict[str, Any], tokenizer: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of the official trainer."""
    parts = {"config": {"patch_nums": (1, 2)}, "var_wo_ddp": model, "vae_local": tokenizer}
    return {"args": {"depth": 2}, "epoch": 3, "iter": 7, "trainer": parts}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", folders("var_transformer"))
def test_transformers(folder: Path, layout, tmp_path):
    config, weights, io = load(folder)
    _, found, _ = load((folder / config["vae_config"]).parent)
    vae = write(found, tmp_path / "vae.pth")
    model = write(content(weights, layout), tmp_path / "var.pth", old=layout == "old")
    if layout == "trainer":
        vae = model = write(both(weights, found), tmp_path / "ar-ckpt-last.pth")
    given = ["--tokenizer", str(vae), "--model", str(model), "--out", str(tmp_path / "p")]
    heads = config["constructor"]["num_heads"]
    main(["convert", "var", *given, "--heads", str(heads)])
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    assert pipe.model.config.heads == heads
    tokenizer = vae_state({k: v.float() for k, v in found.items()})
    assert same(pipe.tokenizer, tokenizer) and same(pipe.model, var_state(weights, tokenizer))
    drawn = pipe.sampling
    assert (drawn.guidance, drawn.schedule, drawn.top_k, drawn.top_p) == (2.5, "linear", 900, 0.96)
    if layout in ("flat", "trainer"):
        pipe.model.requires_grad_(True).quantize.requires_grad_(False)
        check_var(pipe.model, pipe.tokenizer, config, io)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", folders("var_vqvae"))
@torch.no_grad()
def test_tokenizers(folder: Path, layout, tmp_path):
    config, weights, io = load(folder)
    state = both({"x": torch.ones(1)}, weights) if layout == "trainer" else content(weights, layout)
    vae = write(state, tmp_path / "vae.pth", old=layout == "old")
    scales = map(str, config["constructor"]["v_patch_nums"])
    given = ["--tokenizer", str(vae), "--out", str(tmp_path / "t")]
    main(["convert", "var", *given, "--scales", *scales])
    tokenizer, info = load_module(tmp_path / "t", registry.TOKENIZERS)
    if layout == "flat":
        check_vae(tokenizer, config, io)
    assert same(tokenizer, vae_state({k: v.float() for k, v in weights.items()}))
    assert list(info["files"]) == ["vae.pth"]
