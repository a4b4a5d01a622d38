"""RQ-VAE and its quantizer against outputs of the official codes: RQ-Transformer's, DnD's and
VILA-U's."""

import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from golden import Vectors, float32, folders, load, size_of
from torch import Tensor

from official import other, write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.projects.rq import sizes, tables, tokenizer_state
from smalti.modules import load_module
from smalti.tokenizers.quantize.residual import ResidualQuantizer
from smalti.tokenizers.rq_vae import RQVAE, unfold

PREFIX = "rqvae."
GENERATORS = "transformer.", "rqtransformer."
KAKAO = [*folders("rq_transformer"), *folders("rq_transformer_text")]


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The official settings of the tokenizer in a folder."""
    return config["constructor"].get("rqvae", config["constructor"])


def tensors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the tokenizer, under the names of its file."""
    return {n.removeprefix(PREFIX): t for n, t in weights.items() if not n.startswith(GENERATORS)}


def built(folder: Path) -> tuple[RQVAE, dict[str, Any], Vectors]:
    config, weights, io = load(folder)
    told = settings(config)
    model = RQVAE(replace(sizes(told, told["ddconfig"]), size=size_of(io["image"]))).eval()
    model.load_state_dict(tokenizer_state(float32(tensors(weights)), model.config))
    return model, told, io


def temperature(folder: Path) -> float:
    """Of soft codes, which a note says."""
    notes = " ".join(load(folder)[0]["notes"])
    found = re.search(r"get_soft_codes .*?temp = ([\d.]+)", notes)
    return float(found[1]) if found else 0.5


def last_depth(folder: Path) -> int:
    """The depth up to which a partial picture has codes, as the meaning of it says."""
    meaning = load(folder)[0].get("io_tensors", {}).get("partial_image", {}).get("meaning", "")
    found = re.search(r"decode_partial_code\(codes, (\d+)", meaning)
    return int(found[1]) if found else 1


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def flat(codes: Tensor) -> Tensor:
    """Official codes (B, h, w, D) as ours, (B, h * w, D)."""
    return codes.flatten(1, 2)


def check(
    model: RQVAE, told: dict[str, Any], io: Vectors, names: dict[str, str], last: int = 1
) -> None:
    """Compare what images and codes become, of partial pictures up to the depth `last`; `names`
    are those of the family for ours."""

    def compare(name: str, value: Tensor) -> None:
        io.check(names.get(name, name), value)

    image = io["image"]
    z = model.latent(image)
    compare("latent", nhwc(unfold(z, model.config.cells)))
    codes = model.encode(image)
    compare("codes_of_image", codes)
    out = model(image)
    compare("reconstruction", out.images)
    assert torch.equal(flat(out.quantized.codes), codes)
    compare("reconstruction", model.decode(codes))
    loss = out.quantized.losses["commitment"]
    compare("quant_loss", loss)
    torch.testing.assert_close(out.quantized.losses["codebook"], loss)
    distance = {"mse": torch.nn.functional.mse_loss, "l1": torch.nn.functional.l1_loss}
    pixels = distance[told.get("loss_type", "mse")](out.images, image)
    compare("total_loss", pixels + told.get("latent_loss_weight", 0.25) * loss)
    given = flat(io["codes"])
    compare("codes_image", model.decode(given))
    compare("partial_image", model.decode(given, depth=min(last + 1, model.config.depth)))
    compare("codes_emb_by_depth", model.quantize.embed(io["codes"]))


@pytest.mark.parametrize("folder", KAKAO)
@torch.no_grad()
def test_the_tokenizer_of_rq_transformer(folder: Path):
    model, told, io = built(folder)
    check(model, told, io, {}, last_depth(folder))
    soft, codes = model.soft_codes(io["image"], temperature(folder))
    io.check("soft_codes", soft)
    assert torch.equal(codes, model.encode(io["image"]))
    _the_generators(io)
    io.done()


def _the_generators(io: Vectors) -> None:
    """Read what `test_rq_transformer.py` compares."""
    for name in io:
        if name.startswith(("tf_", "cond_", "greedy_", "soft_targets")):
            io.get(name)


@pytest.mark.parametrize("folder", folders("dnd_rqvae"))
@torch.no_grad()
def test_the_tokenizer_of_dnd(folder: Path):
    model, told, io = built(folder)
    names = {
        "latent": "latent_pre_quant_nhwc",
        "codes_of_image": "codes_encoded",
        "quant_loss": "commitment_loss",
        "codes_image": "decode_code_image",
    }
    check(model, told, io, names)
    io.done()


@pytest.mark.parametrize("folder", folders("vilau_rq"))
def test_the_quantizer_of_vila_u(folder: Path):
    config, weights, io = load(folder)
    told = config["quantizer"]
    rows, columns, depth = told["code_shape"]
    height, width, channels = told["latent_shape"]
    cells = height // rows
    assert (height, width) == (cells * rows, cells * columns) and cells == 1
    shared = told.get("shared_codebook", True)
    model = ResidualQuantizer(told["n_embed"], channels, depth, shared)
    found = tables(float32(weights), depth, told["n_embed"], shared)
    model.load_state_dict({"embedding.weight": torch.cat(found)})
    z = io["features"].permute(0, 3, 1, 2).contiguous().requires_grad_()
    out = model(z)
    io.check("codes", out.codes)
    io.check("codes", model.encode(z))
    for latent in (out.latent, model.decode(io["codes"])):
        io.check("quantized", nhwc(latent))
    io.check("embed_code", nhwc(model.decode(io["codes"])))
    io.check("commit_loss", out.losses["commitment"])
    (gradient,) = torch.autograd.grad(out.latent.sum(), [z])
    assert torch.equal(gradient, torch.ones_like(z)), "straight through"
    for name in io:
        if name.startswith(("body_", "depth_", "gen_")):  # of its depth transformer
            io.get(name)
    io.done()


@pytest.mark.parametrize("layout", ["tar.gz", "folder", "file"])
@pytest.mark.parametrize("folder", [*KAKAO[:1], *folders("dnd_rqvae")])
def test_a_file_of_its_weights_is_converted(folder: Path, layout: str, tmp_path: Path):
    """With a config.yaml beside the weights as trained and their moving average."""
    config, weights, io = load(folder)
    told, state = dict(settings(config)), tensors(weights)
    place = tmp_path / "published" / "stage1"
    place.mkdir(parents=True)
    shape = told.pop("ddconfig")
    arch = {"type": "rq-vae", "code_hier": 1, "hparams": told, "ddconfig": shape}
    (place / "config.yaml").write_text(yaml.safe_dump({"arch": arch}))
    wrong = other({n: t for n, t in state.items() if "codebooks" not in n})
    held = {"state_dict": state | wrong, "state_dict_ema": state, "epoch": 3}
    given = write(held, place / "model.pt")
    if layout == "folder":
        given = place
    elif layout == "tar.gz":
        stage2 = place.with_name("stage2")
        stage2.mkdir()
        write({"state_dict": other(state)}, stage2 / "model.pt")
        given = tmp_path / "published.tar.gz"
        with tarfile.open(given, "w:gz") as tar:
            tar.add(place.parent, "published")
    project = "rq" if PREFIX + "quant_conv.bias" in weights else "dnd"
    words = ["--tokenizer", str(given), "--weights", "ema"]
    main(["convert", project, *words, "--out", str(tmp_path / "t")])
    model, _ = load_module(tmp_path / "t", modules.TOKENIZERS, dtype=torch.float32)
    assert model.config == sizes(told, shape)
    if size_of(io["image"]) != model.config.size:
        return  # its settings say a square
    with torch.no_grad():
        codes = "codes_of_image" if project == "rq" else "codes_encoded"
        io.check(codes, model.encode(io["image"]))
