"""Files of lucidrains' Transfusion: tensors back to the config, files to a pipeline, mistakes."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import build
from official import official, write
from smalti.cli.main import main
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.transfusion import model_sizes, model_state
from smalti.loading import load_unified
from smalti.models.transfusion import Transfusion, TransfusionConfig, tiny
from smalti.modules import assemble
from smalti.text.words import Words
from smalti.tokenizers import kl_vae
from smalti.tokenizers.kl_vae import KLVAE

NAMES = {
    r"^layers\.(\d+)\.skip\.": r"transformer.layers.\1.0.",
    r"^layers\.(\d+)\.around_attention\.": r"transformer.layers.\1.1.",
    r"^layers\.(\d+)\.around_feed_forward\.": r"transformer.layers.\1.2.",
    r"^layers\.(\d+)\.attention\.to_out\.": r"transformer.layers.\1.1.fn.to_out.1.",
    r"^layers\.(\d+)\.attention\.to_mix\.":
        r"transformer.layers.\1.1.fn.to_learned_value_residual.0.",
    r"^layers\.(\d+)\.attention\.(to_\w+)\.": r"transformer.layers.\1.1.fn.\2.0.",
    r"^layers\.(\d+)\.attention\.": r"transformer.layers.\1.1.fn.",
    r"^layers\.(\d+)\.feed_forward\.w1\.": r"transformer.layers.\1.2.fn.net.0.",
    r"^layers\.(\d+)\.feed_forward\.w2\.": r"transformer.layers.\1.2.fn.net.3.",
    r"^layers\.(\d+)\.mixture\.": r"transformer.layers.\1.3.",
    r"^time\.frequencies$": "transformer.to_time_cond.0.weights",
    r"^time\.proj\.": "transformer.to_time_cond.1.",
    r"^frequencies$": "rotary_emb.freqs",
    r"^norm\.": "transformer.norm.",
    r"^rows\.": "pos_emb_mlp.0.mlps.0.",
    r"^columns\.": "pos_emb_mlp.0.mlps.1.",
    r"^latent_in\.": "latent_to_model_projs.0.",
    r"^latent_out\.": "model_to_latent_projs.0.",
    r"^tok_embeddings\.": "text_embed.",
    r"^output\.": "to_text_logits.",
}  # fmt: skip
"""Our names, each of which one pattern finds, and upstream's."""
WORDS = Words.train(["a red heart", "make it blue"], 270)


def theirs(model: Transfusion) -> dict[str, Tensor]:
    """The state dict under upstream's names."""
    found = dict[str, Tensor]()
    for name, tensor in model.state_dict().items():
        pattern = next(p for p in NAMES if re.match(p, name))
        found[re.sub(pattern, NAMES[pattern], name)] = tensor
    return found


def sizes_of(state: dict[str, Tensor], **more: Any) -> TransfusionConfig:
    return model_sizes(Checkpoint(Path("x.pt"), state, {}), (8, 8), **more)


@pytest.mark.parametrize(
    "change",
    [
        *({}, {"skips": False}, {"value_residual": True, "layers": 3}, {"qk_norm": False}),
        *({"gated": False}, {"places": False}, {"clean": True, "cap": 30.0}, {"mlp_ratio": 2.7}),
        *({"heads": 3, "head_dim": 4}, {"words": 300}, {"channels": 16}),
    ],
    ids=str,
)
def test_models_come_back(change):
    model = build(Transfusion, replace(tiny(), **change))
    config = model.config
    found = sizes_of(theirs(model), cap=config.cap, clean=config.clean)
    assert replace(found, mlp_ratio=config.mlp_ratio) == config
    again = assemble(Transfusion, found, model_state(theirs(model), found), "x.pt")
    state = model.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in again.state_dict().items())


def test_vectors_as_wide_as_the_model_and_axes_that_are_turned():
    """Upstream has no layer before the first, and a layer in a row with others for the second."""
    model = build(Transfusion, replace(tiny(), channels=16))
    state = theirs(model)
    plain = {n: t for n, t in state.items() if not n.startswith("latent_to_model_projs.")}
    found = model_state(plain, sizes_of(plain))
    assert (
        torch.equal(found["latent_in.weight"], torch.eye(16)) and not found["latent_in.bias"].any()
    )
    turned = {
        re.sub(r"^(latent_to_model_projs\.0\.)", r"\g<1>1.",
               re.sub(r"^(model_to_latent_projs\.0\.)", r"\g<1>0.", name)): tensor
        for name, tensor in state.items()
    }  # fmt: skip
    assert sizes_of(turned) == model.config
    assert model_state(turned, model.config).keys() == model.state_dict().keys()


@pytest.fixture
def files(tmp_path) -> tuple[Transfusion, list[str]]:
    """A model, and the command that converts its files."""
    vae = build(KLVAE, kl_vae.tiny())
    write(official(vae), tmp_path / "vae.ckpt")
    model = build(Transfusion, tiny(words=WORDS.vocab, channels=vae.config.latent, grid=(2, 3)))
    write(theirs(model), tmp_path / "model.pt")
    WORDS.save(tmp_path / "words")
    factor = vae.config.factor
    command = [
        "convert",
        "transfusion",
        "--tokenizer",
        str(tmp_path / "vae.ckpt"),
        "--scale",
        "0.5",
    ]
    return model, [*command, "--size", f"{2 * factor}x{3 * factor}"]


def test_files_become_a_pipeline(files, tmp_path, capsys):
    model, command = files
    state = theirs(model) | {"modality_encoder.0.weight": torch.ones(2)}
    path, out = write(state, tmp_path / "model.pt"), str(tmp_path / "out")
    main([*command, "--model", str(path), "--words", str(tmp_path / "words"), "--out", out])
    assert "1 tensors of modality_encoder.* and" in capsys.readouterr().err
    pipeline = load_unified(out, "cpu", torch.float32)
    assert pipeline.model.config == model.config and pipeline.tokenizer.config.scale == 0.5
    theirs_ = pipeline.model.state_dict()
    assert all(torch.equal(t, theirs_[name]) for name, t in model.state_dict().items())
    sampling = pipeline.sampling
    assert (sampling.guidance.scale, sampling.solver.name, sampling.solver.steps) == (
        3.0, "midpoint", "15"
    )  # fmt: skip
    (image,) = pipeline(["a red heart"], head_steps="2")
    assert image.size == pipeline.tokenizer.size[::-1]
    assert isinstance(pipeline.ask(image, "what?", words=3), str)


@pytest.mark.parametrize(("weights", "factor"), [((), 2), (("--weights", "model"), 1)])
def test_files_of_an_average(files, tmp_path, weights, factor):
    """As ema-pytorch writes them: the average is taken where nothing else is asked for."""
    model, command = files
    state = {"initted": torch.tensor(True), "step": torch.tensor(7)}
    for name, tensor in theirs(model).items():
        state |= {f"online_model.{name}": tensor, f"ema_model.{name}": 2 * tensor}
    path, out = write(state, tmp_path / "model.pt"), str(tmp_path / "out")
    words = ["--words", str(tmp_path / "words"), *weights]
    main([*command, "--model", str(path), *words, "--out", out])
    found = load_unified(out, "cpu", torch.float32).model.output.weight
    assert torch.equal(found, factor * model.output.weight)


def test_a_tokenizer_alone(files, tmp_path):
    main([*files[1], "--out", str(tmp_path / "out")])
    assert "kl_vae" in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("words", "has no tokenizer.json: give --words"),
        ("vocab", "knows 5 ids of text, the text tokenizer has"),
        ("vectors", "draws vectors of 5 numbers, latents of"),
        ("kinds", "knows 2 kinds of pictures, here it is one"),
        ("unet", "has layers of its own where a picture becomes vectors"),
        ("swapped", "looks like a KL-VAE; try: smalti convert"),
        ("scale", "give --scale, one over"),
        ("size", "--size must be a number or HEIGHTxWIDTH"),
    ],
)
def test_mistakes_are_named(files, tmp_path, capsys, change, message):
    model, command = files
    changes = {"vocab": {"words": 5}, "vectors": {"channels": 5}}.get(change)
    state = theirs(build(Transfusion, replace(model.config, **changes)) if changes else model)
    if change == "kinds":
        state["model_to_latent_projs.1.weight"] = torch.zeros(2, 2)
    if change == "unet":
        state["model_to_latent_projs.0.conv.weight"] = state.pop("model_to_latent_projs.0.weight")
    path = write(state, tmp_path / "model.pt")
    if change == "swapped":
        path = tmp_path / "vae.ckpt"
    if change in ("scale", "size"):
        at = command.index(f"--{change}")
        command = [*command[:at], *command[at + 2 :], *["--size", "7"] * (change == "size")]
    extra = [] if change == "words" else ["--words", str(tmp_path / "words")]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--model", str(path), *extra, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
