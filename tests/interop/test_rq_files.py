"""RQ-VAE's files: a config.yaml beside the weights, in a folder or a tar; refusals."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from builders import build
from official import official_conv, write
from smalti import modules
from smalti.cli.main import main
from smalti.interop.bundles import read_bundle, told
from smalti.interop.projects.rq import sizes
from smalti.modules import load_module
from smalti.tokenizers.rq_vae import RQVAE, RQVAEConfig, f16, f32, tiny


def state_of(model: RQVAE) -> dict[str, Tensor]:
    """Official tensors: a table with a padding row for each depth, and its averages."""
    config, state = model.config, dict(model.state_dict())
    rows = state.pop("quantize.embedding.weight").view(-1, config.vocab, config.dim)
    found = official_conv(state, len(config.multipliers))
    for depth in range(config.depth):
        table = rows[min(depth, len(rows) - 1)]
        name = f"quantizer.codebooks.{depth}."
        found[f"{name}weight"] = torch.cat((table, table.new_zeros(1, config.dim)))
        found[f"{name}cluster_size_ema"] = torch.ones(config.vocab)
        found[f"{name}embed_ema"] = table + 1
    return found


def record(config: RQVAEConfig) -> dict[str, Any]:
    """What a config.yaml says of a model."""
    (height, width), side = config.spec.grids[0], config.size[0]
    assert config.size == (side, side)
    hparams = {
        "bottleneck_type": "rq",
        "embed_dim": config.dim,
        "n_embed": config.vocab,
        "latent_shape": [config.cells * height, config.cells * width, config.dim],
        "code_shape": [height, width, config.depth],
        "shared_codebook": config.shared,
    }
    shape = {
        "double_z": False,
        "z_channels": config.latent,
        "resolution": side,
        "in_channels": 3,
        "out_ch": 3,
        "ch": config.channels,
        "ch_mult": list(config.multipliers),
        "num_res_blocks": config.blocks,
        "attn_resolutions": [side // pixels for pixels in config.attention_at],
        "dropout": config.dropout,
    }
    return {"arch": {"type": "rq-vae", "hparams": hparams, "ddconfig": shape}}


@pytest.fixture
def model() -> RQVAE:
    return build(RQVAE, tiny())


def published(model: RQVAE, folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """A folder with model.pt and config.yaml, in which some settings are others."""
    folder.mkdir(parents=True, exist_ok=True)
    told = record(model.config)
    told["arch"]["hparams"] |= changes or {}
    (folder / "config.yaml").write_text(yaml.safe_dump(told))
    return write({"state_dict": state_of(model)}, folder / "model.pt")


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command says that ends in one line and exit code 2."""
    with pytest.raises(SystemExit) as error:
        main([str(word) for word in words])
    said = capsys.readouterr().err.strip().splitlines()
    assert error.value.code == 2 and len(said) == 1, said
    return said[0]


@pytest.mark.parametrize("config", [f32(), f32(8), f16(), f16(4, 512)])
def test_published_settings_come_back(config):
    arch = record(config)["arch"]
    assert sizes(arch["hparams"], arch["ddconfig"]) == config


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("project", ["rq", "dnd"])
def test_a_folder_becomes_the_tokenizer(project, shared, tmp_path):
    model = build(RQVAE, replace(tiny(), shared=shared))
    published(model, tmp_path / "f")
    main(["convert", project, "--tokenizer", str(tmp_path / "f"), "--out", str(tmp_path / "t")])
    found, info = load_module(tmp_path / "t", modules.TOKENIZERS)
    assert found.config == model.config and list(info["files"]) == ["model.pt"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_settings_may_lie_flat(model, tmp_path):
    file = published(model, tmp_path)
    arch = record(model.config)["arch"]
    flat = arch["hparams"] | {"ddconfig": arch["ddconfig"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(flat))
    main(["convert", "rq", "--tokenizer", str(file), "--out", str(tmp_path / "t")])
    assert load_module(tmp_path / "t", modules.TOKENIZERS)[0].config == model.config


def test_a_checkpoint_without_its_config_is_refused(model, tmp_path, capsys):
    file = published(model, tmp_path)
    (tmp_path / "config.yaml").unlink()
    said = refused(capsys, "convert", "rq", "--tokenizer", file, "--out", tmp_path / "t")
    assert said.endswith(
        "model.pt has no config.yaml beside it, which would say what its sizes are"
    )
    assert not (tmp_path / "t").exists()


def test_a_table_without_its_padding_row_is_refused(model, tmp_path, capsys):
    file, state = published(model, tmp_path), state_of(model)
    state["quantizer.codebooks.1.weight"] = state["quantizer.codebooks.1.weight"][:-1]
    write({"state_dict": state}, file)
    said = refused(capsys, "convert", "dnd", "--tokenizer", file, "--out", tmp_path / "t")
    assert "quantizer.codebooks.1.weight must have 33 rows, a padding row behind those" in said
    assert said.endswith("got shape (32, 4)")


BAD = {
    "shared table": ({"shared_codebook": True}, "codebooks.1.weight must be the shared table of"),
    "depth": ({"code_shape": [4, 4, 4]}, "each of 4 depths must have a table, got no quantizer.c"),
    "bottleneck": ({"bottleneck_type": "vlrq"}, "bottleneck_type must be rq with one n_embed"),
    "tables": ({"n_embed": [32, 16, 8]}, "must be rq with one n_embed, got 'rq', [32, 16, 8]"),
    "grid": ({"code_shape": [3, 4, 3]}, "code_shape must divide latent_shape [4, 4, 4] by one"),
    "shape": ({"code_shape": 3}, "are not those of an RQ-VAE (TypeError"),
}


@pytest.mark.parametrize("changes, words", BAD.values(), ids=BAD)
def test_a_config_of_something_else_is_refused(changes, words, tmp_path, capsys):
    model = build(RQVAE, replace(tiny(), shared=False))
    file = published(model, tmp_path, changes)
    said = refused(capsys, "convert", "rq", "--tokenizer", file, "--out", tmp_path / "t")
    assert str(file) in said and words in said


@pytest.mark.parametrize(
    "text, words",
    [
        ("[1, 2", "cannot be read: while parsing a flow sequence"),
        ("- 1", "must be a mapping, got [1]"),
        ("!!python/object/apply:os.mkdir ['x']", "could not determine a constructor"),
    ],
)
def test_a_config_that_is_none_is_refused(text, words, model, tmp_path, capsys):
    file = published(model, tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    said = refused(capsys, "convert", "rq", "--tokenizer", file, "--out", tmp_path / "t")
    assert words in said
    assert not Path("x").exists()


def archive(path: Path, *folders: Path, mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for folder in folders:
            tar.add(folder, f"all/{folder.name}")
    return path


@pytest.mark.parametrize("name, mode", [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar", "w")])
def test_a_tar_of_two_stages(name, mode, model, tmp_path):
    published(model, tmp_path / "stage1")
    published(build(RQVAE, tiny(), 1), tmp_path / "stage2")
    file = archive(tmp_path / name, tmp_path / "stage1", tmp_path / "stage2", mode=mode)
    checkpoint = read_bundle(file, "model", "stage1")
    assert checkpoint.path == file and checkpoint.files == (file,)
    for key, tensor in state_of(model).items():  # when what was unpacked is gone
        assert torch.equal(checkpoint.state[key], tensor)
    assert told(checkpoint)["arch"]["hparams"]["n_embed"] == 32


def test_a_tar_is_not_unpacked_beyond_its_files(model, tmp_path):
    """Names that lead out of a folder, links, and what else is in it."""
    published(model, tmp_path / "stage1")
    file = archive(tmp_path / "a.tar", tmp_path / "stage1", mode="w")
    with tarfile.open(file, "a") as tar:
        outside = tarfile.TarInfo("../outside.txt")
        outside.size = 2
        tar.addfile(outside, io.BytesIO(b"no"))
        link = tarfile.TarInfo("all/stage1/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert read_bundle(file, "model", "stage1").args
    assert not (tmp_path.parent / "outside.txt").exists()


def test_tars_without_one_checkpoint_are_refused(model, tmp_path, capsys):
    published(model, tmp_path / "x")
    published(model, tmp_path / "y")
    both = archive(tmp_path / "both.tar", tmp_path / "x", tmp_path / "y", mode="w")
    said = refused(capsys, "convert", "rq", "--tokenizer", both, "--out", tmp_path / "t")
    assert "both.tar must hold one model.pt, or one in stage1/, got all/x/model.pt, all/y" in said
    (tmp_path / "none").mkdir()
    empty = archive(tmp_path / "none.tar", tmp_path / "none", mode="w")
    said = refused(capsys, "convert", "rq", "--tokenizer", empty, "--out", tmp_path / "t")
    assert said.endswith("none.tar must hold one model.pt, or one in stage1/, got none")
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"\x1f\x8b" + b"0" * 50)
    said = refused(capsys, "convert", "rq", "--tokenizer", broken, "--out", tmp_path / "t")
    assert "broken.tar.gz cannot be unpacked: " in said
    gone = tmp_path / "gone.tar.gz"
    said = refused(capsys, "convert", "rq", "--tokenizer", gone, "--out", tmp_path / "t")
    assert "gone.tar.gz" in said


def test_weights_of_a_tokenizer_that_is_no_rq_vae(tmp_path, capsys):
    plain = write({"encoder.conv_in.weight": torch.zeros(2)}, tmp_path / "model.pt")
    said = refused(capsys, "convert", "rq", "--tokenizer", plain, "--out", tmp_path / "t")
    assert "config.yaml" in said or "RQ-VAE" in said
