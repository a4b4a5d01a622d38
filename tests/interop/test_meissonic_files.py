"""Meissonic's files: from tensors back to the config, folders of diffusers as pipelines; what does
not fit."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import smalti
from builders import build
from official import diffusers_vq, official
from smalti.cli.main import main
from smalti.data.token_cache import TokenCache
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.meissonic import (
    DRAWN,
    model_sizes,
    model_state,
    vq_sizes,
    vq_state,
)
from smalti.models import meissonic
from smalti.models.meissonic import Meissonic, MeissonicConfig
from smalti.modules import assemble, load_module, save_module
from smalti.recipes.meissonic import meissonic as published
from smalti.text.clip import CLIP, config_of
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig
from tiny_clip import write_clip

AXES = (4, 6, 6)
MODEL = replace(
    meissonic.tiny(),
    text_length=10,
    text_dim=16,
    pooled=12,
    clock="steps",
)
VQ = VQGANConfig(
    size=(16, 16),
    channels=8,
    multipliers=(1, 2, 2),
    blocks=1,
    latent=6,
    vocab=32,
    dim=4,
    l2_norm=False,
    attention=False,
    deep_attention=False,
    unit=True,
)


def checkpoint(config: MeissonicConfig) -> Checkpoint:
    with torch.device("meta"):
        return Checkpoint(Path("x.safetensors"), official(Meissonic(config)), {})


@st.composite
def models(draw) -> MeissonicConfig:
    axes = tuple(2 * draw(st.integers(1, 4)) for _ in AXES)
    heads, few = draw(st.integers(1, 3)), st.integers(0, 2)
    words, pooled = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    joint = draw(few)
    return replace(
        MODEL,
        vocab=draw(st.integers(2, 40)),
        text_dim=max(words, pooled),
        word_dim=0 if words >= pooled else words,
        pooled=pooled,
        joint_layers=joint,
        single_layers=draw(few) if joint else 1,
        heads=heads,
        dim=heads * sum(axes),
        axes=axes,
        compress=draw(st.booleans()),
        guided=draw(st.sampled_from((None, 3.5))),
    )


@settings(max_examples=20)
@given(config=models())
def test_models_come_back(config):
    stored = checkpoint(config)
    found = model_sizes(stored, config.grid, config.axes)
    found = replace(found, text_length=config.text_length, factor=config.factor)
    assert found == config
    assert assemble(Meissonic, found, model_state(stored.state, found), "x").config == config


def test_the_published_size_is_told_by_its_tensors():
    config = replace(published().model, guided=None)
    assert model_sizes(checkpoint(config), config.grid) == config


@pytest.mark.parametrize("change", [{}, {"compress": False, "guided": 3.5, "word_dim": 7}])
def test_weights_come_back(change):
    model = build(Meissonic, replace(MODEL, **change))
    ours, found = model.state_dict(), model_state(official(model), model.config)
    assert found.keys() == ours.keys()
    assert all(torch.equal(found[k], ours[k]) for k in ours if k != "null")


@pytest.mark.parametrize("change", [{}, {"attention": True, "blocks": 2, "multipliers": (1, 3)}])
def test_tokenizers_come_back(change):
    config = replace(VQ, **change)
    vq = build(VQGAN, replace(config, size=(config.factor, config.factor)))
    stored = Checkpoint(Path("x.safetensors"), diffusers_vq(vq.state_dict()), {})
    assert vq_sizes(stored) == vq.config
    ours, found = vq.state_dict(), vq_state(stored.state)
    assert found.keys() == ours.keys() and all(torch.equal(found[k], ours[k]) for k in ours)


@torch.no_grad()
def test_convolutions_may_see_pixels_between_0_and_1():
    """Upstream's pictures are (images + 1) / 2 of ours, in and out."""
    vq, plain = build(VQGAN, VQ), build(VQGAN, replace(VQ, unit=False))
    images = 2 * torch.rand(2, 3, 16, 16) - 1
    codes = vq.encode(images)
    assert torch.equal(codes, plain.encode((images + 1) / 2))
    torch.testing.assert_close((vq.decode(codes) + 1) / 2, plain.decode(codes))
    assert not torch.equal(codes, plain.encode(images))


# -- folders


def shards(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Two files and an index, as diffusers writes large ones."""
    begin, names = "diffusion_pytorch_model", list(state)
    half = len(names) // 2
    parts = {f"{begin}-0000{i}-of-00002.safetensors": names[half * (i - 1) : half * i or None]
             for i in (1,)} | {f"{begin}-00002-of-00002.safetensors": names[half:]}  # fmt: skip
    for file, held in parts.items():
        save_file({n: state[n].contiguous() for n in held}, folder / file)
    index = {"weight_map": {n: file for file, held in parts.items() for n in held}}
    (folder / f"{begin}.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder as the hub has it, with the models that are in it."""
    folder = tmp_path_factory.mktemp("Meissonic")
    model, vq = build(Meissonic, MODEL), build(VQGAN, VQ, seed=1)
    for name in ("transformer", "vqvae", "scheduler"):
        (folder / name).mkdir()
    shards(official(model), folder / "transformer")
    (folder / "transformer" / "config.json").write_text(json.dumps({"axes_dims_rope": AXES}))
    vq_file = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    save_file({n: t.contiguous() for n, t in diffusers_vq(vq.state_dict()).items()}, vq_file)
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    write_clip(folder, ["a red heart", "two cats"], apart=True)
    return folder, model, vq


def convert(folder: Path, out: Path, *more: str) -> None:
    files = ["--tokenizer", str(folder / "vqvae"), "--model", str(folder / "transformer")]
    words = ["--text", str(folder), "--size", "16", "--out", str(out)]
    main(["convert", "meissonic", *files, *words, *more])


def test_features_of_captions_are_kept(released, tmp_path, monkeypatch):
    """A token cache has what the encoder says, in half precision."""
    monkeypatch.setattr("smalti.text.clip.fast_bf16", lambda device: False)
    folder, _, vq = released
    save_module(vq, tmp_path / "vq")
    words = ["--tokenizer", str(tmp_path / "vq"), "--text", f"clip:{folder}", "--no-flip"]
    main(["encode", "shapes:6", *words, "--out", str(tmp_path / "codes.arrow")])
    cache, encoder = TokenCache(tmp_path / "codes.arrow"), CLIP(config_of(str(folder)))
    found, mask = cache.text([1, 4])
    wanted, _ = encoder(encoder.tokenize(cache.captions_of([1, 4])))
    assert mask.all() and found.shape == (2, 10, 16)
    torch.testing.assert_close(found.float(), wanted, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_released_folder_becomes_a_pipeline(released, tmp_path, monkeypatch):
    monkeypatch.setattr("smalti.text.clip.fast_bf16", lambda device: False)
    folder, model, vq = released
    convert(folder, tmp_path / "pipe")
    pipe = smalti.load(str(tmp_path / "pipe"), "cpu", torch.float32)
    assert pipe.sampling == DRAWN and pipe.model.config == MODEL
    images = 2 * torch.rand(2, 3, 16, 16) - 1
    assert torch.equal(pipe.tokenizer.encode(images), vq.encode(images))
    empty, _ = pipe.text(pipe.text.tokenize([""]))
    assert torch.equal(pipe.model.null, empty[0]), "no text is an empty text"
    theirs, ours = model.state_dict(), pipe.model.state_dict()
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs if n != "null")
    pictures = pipe(["a red heart", "two cats"], steps=3, seed=1)
    assert [p.size for p in pictures] == [(16, 16)] * 2
    wide = pipe("two cats", steps=3, seed=1, size=(8, 24), guidance=1.0)
    assert [p.size for p in wide] == [(24, 8)]


def test_a_hub_id_is_a_folder(released, tmp_path, monkeypatch):
    """Transformer and tokenizer are folders of the repository, whose files have the same name."""
    given, model, vq = released
    home = tmp_path / "hub" / "snapshots" / "c0ffee"
    for name, state in (("transformer", official(model)), ("vqvae", diffusers_vq(vq.state_dict()))):
        (home / name).mkdir(parents=True)
        file = home / name / "diffusion_pytorch_model.safetensors"
        save_file({n: t.contiguous() for n, t in state.items()}, file)
    (home / "transformer" / "config.json").write_text(json.dumps({"axes_dims_rope": AXES}))
    asked = []
    where = "smalti.interop.hub.snapshot_download"
    monkeypatch.setattr(where, lambda repo, allow_patterns: asked.extend(allow_patterns) or home)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    words = "smalti.interop.projects.meissonic.config_of"
    monkeypatch.setattr(words, lambda name: config_of(str(given)))
    pipe = smalti.load("MeissonFlow/Meissonic/transformer", "cpu", torch.float32)
    assert asked == ["transformer/*", "vqvae/*"] and pipe.tokenizer.size == (1024, 1024)
    assert pipe.info["source"] == "MeissonFlow/Meissonic at c0ffee"
    name = "diffusion_pytorch_model.safetensors"
    assert pipe.info["files"].keys() == {f"vqvae/{name}", f"transformer/{name}"}


def test_a_tokenizer_alone(released, tmp_path):
    folder, _, vq = released
    file = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    words = ["--tokenizer", str(file), "--size", "16x24", "--out", str(tmp_path / "vq")]
    main(["convert", "meissonic", *words])
    found, info = load_module(tmp_path / "vq", smalti.modules.TOKENIZERS)
    assert found.config == replace(VQ, size=(16, 24)) and info["files"].keys() == {file.name}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--axes", "4", "4", "6"], r"axes \(4, 4, 6\) must add up to the 16 numbers of a head"),
        (["--size", "20"], "with compress both sides of grid must be even"),
        (["--size", "18"], "--size must be a number or HEIGHTxWIDTH, multiples of 4"),
        (["--model", "{vqvae}"], "looks like a tokenizer of Meissonic; try: smalti convert"),
        (["--tokenizer", "{transformer}"], "looks like a transformer of Meissonic; try"),
        (["--text", "{vqvae}"], "is no CLIP that can be loaded"),
        (["--tokenizer", "{.}"], "is a folder; give a file in it"),
    ],
)
def test_mistakes(released, tmp_path, capsys, more, message):
    folder, *_ = released
    more = [str(folder / word[1:-1]) if word.startswith("{") else word for word in more]
    with pytest.raises(SystemExit) as end:
        convert(folder, tmp_path / "pipe", *more)
    said = [line for line in capsys.readouterr().err.splitlines() if "Loading" not in line]
    assert end.value.code == 2 and len(said) == 1 and re.search(message, said[0])
    assert not (tmp_path / "pipe").exists()


def test_other_tokenizers_are_refused():
    state = diffusers_vq(build(VQGAN, VQ).state_dict())
    state["encoder.down_blocks.2.attentions.0.to_q.weight"] = torch.ones(2, 2)
    with pytest.raises(ValueError, match="only tokenizers with attention in the middle are"):
        vq_sizes(Checkpoint(Path("x"), state, {}))
    del state["encoder.down_blocks.2.attentions.0.to_q.weight"]
    state["encoder.down_blocks.1.resnets.0.conv1.weight"] = torch.ones(12, 8, 3, 3)
    with pytest.raises(ValueError, match="widths must be multiples of the first, 8, got 12"):
        vq_sizes(Checkpoint(Path("x"), state, {}))
