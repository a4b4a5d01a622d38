"""Files of taming-transformers: VQGANs, GPTs with the VQGANs in them, and their yaml."""

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import smalti
from builders import build
from official import official_conv, renamed, wrapped, write
from small_systems import mistake
from smalti.cli.main import main
from smalti.interop.projects.taming import gpt_state
from smalti.loading import load_tokenizer
from smalti.models.taming import Taming, tiny
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

SMALL = VQGANConfig(
    size=(16, 16), channels=8, multipliers=(1, 2, 2), blocks=1, latent=8, vocab=32, dim=8,
    l2_norm=False, deep_attention=False, attention_at=(4,),
)  # fmt: skip


class ModelCheckpoint:
    """What stands for the class of Lightning's by which its files keep what callbacks know."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


def official_vqgan(model: VQGAN) -> dict[str, Tensor]:
    state = official_conv(dict(model.state_dict()), len(model.config.multipliers))
    if model.config.gumbel:
        state = renamed(state, {r"^quantize\.embedding\.": "quantize.embed."})
    return state | {"loss.discriminator.main.0.weight": torch.ones(1)}


def official_gpt(model: Taming, more: int = 0) -> dict[str, Tensor]:
    """With queries, keys and values apart, masks, and `more` positions than are used."""
    state = dict(model.state_dict())
    state["tok_embeddings.weight"] = state["tok_embeddings.weight"][:-1]
    positions = state.pop("positions")
    block = len(positions) + more
    found = {"pos_emb": torch.cat((positions, torch.ones(more, positions.shape[1])))[None]}
    renames = {
        r"^layers\.": "blocks.", r"attention_norm": "ln1", r"ffn_norm": "ln2",
        r"\.wo\.": ".attn.proj.", r"feed_forward\.w1": "mlp.0", r"feed_forward\.w2": "mlp.2",
        r"^norm\.": "ln_f.", r"^tok_embeddings": "tok_emb", r"^head\.proj": "head",
    }  # fmt: skip
    for name, tensor in renamed(state, renames).items():
        if ".wqkv." in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            found |= {name.replace("wqkv", f"attn.{part}"): t for part, t in parts}
        else:
            found[name] = tensor
    mask = torch.ones(block, block).tril()
    mask[: model.config.unmasked, : model.config.unmasked] = 1
    for i in range(model.config.layers):
        found[f"blocks.{i}.attn.mask"] = mask[None, None]
    return found


def record(model: Taming, cond: dict[str, Any] | str, **params: Any) -> str:
    """The yaml of a project."""
    gpt = {"n_head": model.config.heads, "attn_pdrop": 0.1, "resid_pdrop": 0.2}
    told = {"transformer_config": {"params": gpt}, "cond_stage_config": cond, **params}
    return yaml.safe_dump({"model": {"target": "Net2NetTransformer", "params": told}})


def published(folder: Path, model: Taming, maps: VQGAN | None, more: int = 0) -> Path:
    """last.ckpt of a run, as Lightning writes it, with all stages."""
    state = wrapped(official_gpt(model, more), "transformer")
    state |= wrapped(official_vqgan(build(VQGAN, SMALL)), "first_stage_model")
    if maps is not None:
        state |= wrapped(official_vqgan(maps), "cond_stage_model")
    if (scan := model.order()) is not None:
        state["permuter.forward_shuffle_idx"] = scan
    (folder / "checkpoints").mkdir(parents=True)
    callbacks = {ModelCheckpoint: {"best_model_score": torch.tensor(1.0)}}
    content = {"state_dict": state, "epoch": 3, "callbacks": callbacks}
    path = folder / "checkpoints" / "last.ckpt"
    names = ModelCheckpoint.__module__.split(".")
    with pytest.MonkeyPatch.context() as patch:  # the library is not there when it is read
        for i in range(len(names)):
            name = ".".join(names[: i + 1])
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setattr(sys.modules[name], "ModelCheckpoint", ModelCheckpoint, raising=False)
        return write(content, path)


def converted(out: Path, *words: object) -> Any:
    main([str(w) for w in ("convert", "taming", *words, "--out", out, "--dtype", "float32")])
    return smalti.load(out, device="cpu", dtype="float32")


@pytest.mark.parametrize("kind", ["plain", "averages", "gumbel", "depth", "kinds"])
def test_a_vqgan_comes_back(kind, tmp_path):
    changes: dict[str, Any] = {
        "gumbel": {"gumbel": True, "latent": 8},
        "depth": {"map": "depth"},
        "kinds": {"map": "segmentation", "kinds": 13},
    }.get(kind, {})
    model = build(VQGAN, replace(SMALL, **changes))
    state = official_vqgan(model)
    if kind == "averages":  # of an EMAVQ
        state["quantize.embedding.cluster_size"] = torch.ones(32)
        state["quantize.embedding.embed_avg"] = torch.ones(32, 8)
    file = write({"state_dict": state}, tmp_path / "last.ckpt")
    words = ("convert", "taming", "--tokenizer", file, "--size", 16, "--out", tmp_path / "out")
    main([str(w) for w in words])
    ours = load_tokenizer(tmp_path / "out", "cpu")
    assert ours.config == model.config
    pixels = torch.randint(13, (1, 1, 16, 16)).expand(1, 3, 16, 16) / 127.5 - 1
    assert torch.equal(ours.encode(pixels), model.encode(pixels))


def test_a_gpt_of_maps_comes_back_with_both_tokenizers(tmp_path):
    maps = build(VQGAN, replace(SMALL, map="segmentation", kinds=5, vocab=30))
    config = replace(
        tiny(), classes=0, map_grid=(4, 4), map_vocab=30, unmasked=16, keep=0.9, cell=4,
        dropout=0.2, attention_dropout=0.1, order="z-curve",
    )  # fmt: skip
    model = build(Taming, config)
    file = published(tmp_path / "run", model, maps, more=3)
    (tmp_path / "run" / "configs").mkdir()
    told = record(model, {"target": "taming.models.vqgan.VQSegmentationModel"}, pkeep=0.9)
    (tmp_path / "run" / "configs" / "2021-project.yaml").write_text(told)
    pipe = converted(tmp_path / "out", "--model", file, "--size", 16)
    assert pipe.model.config == config and pipe.map.config == maps.config
    assert pipe.tokenizer.config == SMALL
    state = gpt_state(official_gpt(model, 3), config)
    assert all(torch.equal(t, state[n]) for n, t in pipe.model.state_dict().items())
    codes = pipe.map.encode(torch.zeros(1, 3, 16, 16) - 1)
    kinds = np.zeros((16, 16), np.uint8)
    (image,) = pipe(map=Image.fromarray(kinds), n=1)
    assert image.info["smalti"]["map"] == codes[0].tolist()
    again = smalti.load(tmp_path / "out", device="cpu")
    assert again.fingerprint == pipe.fingerprint and again.map is not None


@pytest.mark.parametrize(("cond", "options", "wanted"), [
    ({"target": "x.Labelator", "params": {"n_classes": 7}}, (), {"classes": 7}),
    ({"target": "x.SOSProvider", "params": {"sos_token": 4}}, (), {"classes": 1, "first": 4}),
    ({"target": "x.CoordStage", "params": {"n_embed": 20, "down_factor": 4}}, (),
     {"classes": 1, "places": 20}),
    ("__is_unconditional__", (), {"classes": 1}),
    (None, ("--heads", 2, "--classes", 3), {"classes": 3}),
])  # fmt: skip
def test_what_the_condition_is(cond, options, wanted, tmp_path):
    config = replace(tiny(), cell=4, **wanted)
    model = build(Taming, config)
    file = published(tmp_path / "run", model, None)
    if cond is not None:
        file.with_suffix(".yaml").write_text(record(model, cond))
        config = replace(config, dropout=0.2, attention_dropout=0.1)
    pipe = converted(tmp_path / "out", "--model", file, "--size", 16, *options)
    assert pipe.model.config == config and len(pipe.classes) == config.classes
    assert len(pipe(n=1)) == 1


def test_mistakes(tmp_path, capsys):
    model = build(Taming, replace(tiny(), cell=4))
    file = published(tmp_path / "run", model, None)
    convert = ("convert", "taming", "--model", file, "--out", tmp_path / "out")
    assert "no published model has 2 layers of width 32" in mistake(capsys, *convert)
    told = mistake(capsys, *convert, "--heads", 2, "--size", 16)
    assert "has no yaml beside it: give --classes" in told
    told = mistake(capsys, *convert, "--heads", 2, "--classes", 5, "--size", "32")
    assert "has 16 positions; a window of 64 codes behind 1 of the condition needs 64" in told
    told = mistake(capsys, *convert, "--heads", 2, "--classes", 50, "--size", "16")
    assert "knows 32 codes; its tokenizers and classes have 50" in told
    file.with_suffix(".yaml").write_text("model: 3")
    assert "is no yaml of taming-transformers: it has no model" in mistake(capsys, *convert)
    told = mistake(capsys, "convert", "taming", "--out", tmp_path / "out")
    assert "give --tokenizer FILE, --model FILE or both" in told
    assert not (tmp_path / "out").exists()


def test_a_condition_that_is_not_known_is_refused(tmp_path, capsys):
    """Bounding boxes, of which the file says nothing but a name, and maps that are made smaller."""
    model = build(Taming, replace(tiny(), cell=4))
    file = published(tmp_path / "run", model, None)
    convert = ("convert", "taming", "--model", file, "--size", 16, "--out", tmp_path / "out")
    target = "taming.models.dummy_cond_stage.DummyCondStage"
    boxes = {"target": target, "params": {"conditional_key": "objects_bbox"}}
    file.with_suffix(".yaml").write_text(record(model, boxes, cond_stage_key="objects_bbox"))
    for classes in ((), ("--classes", 1)):
        told = mistake(capsys, *convert, *classes)
        assert "its condition must be one of __is_unconditional__, SOSProvider, " in told
        assert told.rstrip().endswith("got DummyCondStage")
    stage = {"target": "taming.models.vqgan.VQModel"}
    file.with_suffix(".yaml").write_text(record(model, stage, downsample_cond_size=128))
    assert "downsample_cond_size must be -1, got 128" in mistake(capsys, *convert)
    assert not (tmp_path / "out").exists()


def test_an_order_of_no_name_is_refused(tmp_path, capsys):
    model = build(Taming, replace(tiny(), cell=4, order="spiral-out"))
    file = published(tmp_path / "run", model, None)
    told = mistake(
        capsys, "convert", "taming", "--model", file, "--heads", 2, "--classes", 5,
        "--size", "16x12", "--out", tmp_path / "out",
    )  # fmt: skip
    assert "draws 16 codes in an order that is none of" in told


def test_what_no_released_file_has_is_refused(tmp_path, capsys):
    """A subset of the codes (`remap`), and drawing in one shot (`pkeep` 0)."""
    state = official_vqgan(build(VQGAN, SMALL)) | {"quantize.used": torch.arange(3)}
    file = write({"state_dict": state}, tmp_path / "subset.ckpt")
    words = ("convert", "taming", "--out", tmp_path / "no")
    told = mistake(capsys, *words, "--tokenizer", file, "--size", "16")
    assert "subset.ckpt: 0 tensors missing [], 1 unknown ['quantize.used']" in told
    path = published(tmp_path / "one-shot", build(Taming, tiny()), None)
    path.with_suffix(".yaml").write_text(
        record(build(Taming, tiny()), {"target": "SOSProvider"}, pkeep=0.0)
    )
    told = mistake(capsys, *words, "--model", path, "--size", "16")
    assert "keep must be above 0, got 0.0" in told and not (tmp_path / "no").exists()
