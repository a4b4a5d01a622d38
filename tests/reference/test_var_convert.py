"""VAR's golden weights as released files: `smalti convert`, `smalti.load`, golden tensors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import float32, folders, load
from test_rar_convert import content, same
from test_var import check_var, tokenizer_of
from test_var_vqvae import check as check_vae

import smalti
from official import write
from official_settings import VAE_DEFAULTS, VAR_DEFAULTS
from smalti import modules
from smalti.cli.main import main
from smalti.interop.projects.var import vae_state, var_state
from smalti.modules import load_module

LAYOUTS = ["flat", "flat-views", "compiled", "old", "trainer"]


def both(model: dict[str, Any], tokenizer: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of the official trainer."""
    parts = {"config": {"patch_nums": (1, 2)}, "var_wo_ddp": model, "vae_local": tokenizer}
    return {"args": {"depth": 2}, "epoch": 3, "iter": 7, "trainer": parts}


def tokenizer_options(constructor: dict[str, Any]) -> list[str]:
    """The options of settings that no tensor tells, where a folder has them."""
    ratio = ["--quant-resi", str(constructor["quant_resi"])] if "quant_resi" in constructor else []
    return [*ratio, *(["--l2-norm"] if constructor.get("using_znorm") else [])]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", folders("var_transformer"))
def test_transformers(folder: Path, layout, tmp_path):
    config, weights, io = load(folder)
    settings, stored = tokenizer_of(folder, config)
    vae = write(stored, tmp_path / "vae.pth")
    model = write(content(weights, layout), tmp_path / "var.pth", old=layout == "old")
    if layout == "trainer":
        vae = model = write(both(weights, stored), tmp_path / "ar-ckpt-last.pth")
    files = ["--tokenizer", str(vae), "--model", str(model), "--out", str(tmp_path / "p")]
    made, options = VAR_DEFAULTS | config["constructor"], tokenizer_options(settings["constructor"])
    heads = made["num_heads"]
    options += ["--heads", str(heads), "--norm-eps", str(made["norm_eps"])]
    if "lvl_1L" not in weights:
        options += ["--scales", *map(str, made["patch_nums"])]
    main(["convert", "var", *files, *options])
    pipe = smalti.load(tmp_path / "p", "cpu", torch.float32)
    assert pipe.model.config.heads == heads
    tokenizer = vae_state(float32(stored))
    assert same(pipe.tokenizer, tokenizer)
    assert same(pipe.model, var_state(float32(weights), tokenizer))
    guidance, filters = pipe.sampling.guidance, pipe.sampling.filters
    assert (guidance.scale, guidance.schedule) == (2.5, "linear")
    assert (filters.top_k, filters.top_p) == (900, 0.96)
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
    scales = (VAE_DEFAULTS | config["constructor"])["v_patch_nums"]
    options = ["--scales", *map(str, scales)]
    options += tokenizer_options(config["constructor"])
    main(["convert", "var", "--tokenizer", str(vae), "--out", str(tmp_path / "t"), *options])
    tokenizer, info = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert same(tokenizer, vae_state(float32(weights)))
    if layout == "flat":
        check_vae(tokenizer, config, io)
    assert list(info["files"]) == ["vae.pth"]
