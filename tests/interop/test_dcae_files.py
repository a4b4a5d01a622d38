"""Files of DC-AE, of the project's names and of diffusers', become tokenizers."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import close
from builders import build, tokenizers
from smalti import modules
from smalti.cli.main import main
from smalti.interop.hub import fetch, find_tokenizer
from smalti.modules import load_module
from smalti.tokenizers.dcae import DCAE, DCAEConfig, f32c32, f64c128, f128c512, sana

CASES = {name: case[1] for name, case in tokenizers().items() if name.startswith("dcae")}
PROJECT = (
    (r"coder\.conv_in\.", "coder.project_in.conv."),
    (r"encoder\.conv_out\.", "encoder.project_out.main.op_list.0.conv."),
    (r"decoder\.norm_out\.", "decoder.project_out.op_list.0."),
    (r"decoder\.conv_out\.", "decoder.project_out.op_list.2.conv."),
    (r"coder\.(?:down|up)_blocks\.(\d+)\.(\d+)\.", r"coder.stages.\1.op_list.\2.main."),
    (r"\.main\.attn\.to_qkv\.", ".context_module.main.qkv.conv."),
    (r"\.main\.attn\.scales\.", ".context_module.main.aggreg."),
    (r"\.main\.attn\.to_out\.", ".context_module.main.proj.conv."),
    (r"\.main\.attn\.norm_out\.", ".context_module.main.proj.norm."),
    (r"\.main\.conv_out\.conv_(\w+)\.", r".local_module.main.\1_conv.conv."),
    (r"\.main\.conv_out\.norm\.", ".local_module.main.point_conv.norm."),
    (r"\.main\.(conv1|conv2)\.", r".main.\1.conv."),
    (r"\.main\.norm\.", ".main.conv2.norm."),
    (r"\.main\.conv\.", ".main.conv.conv."),
)
"""Patterns of our names and what they are in the project, in this order."""


def project_state(model: DCAE) -> dict[str, Tensor]:
    """The state dict of the project's class."""
    found = dict[str, Tensor]()
    for name, tensor in model.state_dict().items():
        for ours, theirs in PROJECT:
            name = re.sub(ours, theirs, name)
        if not model.config.encoder.shuffle:  # convolutions of stride 2 are one module less
            name = re.sub(r"(encoder.*)\.main\.conv\.conv\.", r"\1.main.conv.", name)
            name = name.replace("encoder.project_in.conv.conv.", "encoder.project_in.conv.")
        found[name] = tensor
    return found


def diffusers_state(model: DCAE) -> dict[str, Tensor]:
    """The state dict of diffusers' class."""
    found = dict[str, Tensor]()
    for name, tensor in model.state_dict().items():
        name = name.replace(".0.weight", ".proj_in.weight") if ".scales." in name else name
        name = name.replace(".1.weight", ".proj_out.weight") if ".scales." in name else name
        name = name.replace(".scales.", ".to_qkv_multiscale.")
        if ".to_qkv." in name:
            parts = tensor[:, :, 0, 0].chunk(3)
            found |= {name.replace("_qkv", f"_{k}"): t for k, t in zip("qkv", parts, strict=True)}
            continue
        found[name] = tensor[:, :, 0, 0] if name.endswith("to_out.weight") else tensor
    return {name: tensor.clone() for name, tensor in found.items()}


def told(config: DCAEConfig) -> dict[str, Any]:
    """What diffusers' config.json says that no tensor does."""
    said: dict[str, Any] = {
        "_class_name": "AutoencoderDC",
        "attention_head_dim": config.head_dim,
        "decoder_conv_act_fn": config.last_activation,
        "encoder_out_shortcut": config.encoder.shortcut,
        "decoder_in_shortcut": config.decoder.shortcut,
        "scaling_factor": config.scale,
    }
    names = list(config.decoder.activations)
    return said | {"decoder_act_fns": names or "silu"}


def write(folder: Path, state: dict[str, Tensor], config: dict[str, Any] | None) -> Path:
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def convert(folder: Path, out: Path, *options: str) -> DCAE:
    main(["convert", "dcae", "--tokenizer", str(folder), "--out", str(out), *options])
    return load_module(out, modules.TOKENIZERS)[0]


def same(found: DCAE, wanted: DCAE) -> None:
    assert found.config == wanted.config
    close.weights(found, wanted)


@pytest.mark.parametrize("name", CASES)
def test_either_kind_of_file(name, tmp_path):
    model = build(DCAE, CASES[name])
    size = "x".join(map(str, model.config.size))
    for layout, state in (("project", project_state), ("diffusers", diffusers_state)):
        folder = write(tmp_path / layout, state(model), told(model.config))
        same(convert(folder, tmp_path / f"{layout}-out", "--size", size), model)


def test_what_config_json_lacks_is_as_published(tmp_path):
    """Its name tells the scale; activations are relu where norms are over the batch."""
    published = f64c128(128)
    half = replace(published.decoder, widths=(4, *(8,) * 6))
    encoder = replace(published.encoder, widths=(4, *(8,) * 6))
    small = replace(published, latent=8, head_dim=8, encoder=encoder, decoder=half)
    model = build(DCAE, small)
    folder = write(tmp_path / "f", project_state(model), {"model_name": "dc-ae-f64c128-in-1.0"})
    found = convert(folder, tmp_path / "out", "--size", "128", "--head-dim", "8")
    assert found.config.scale == 0.2889
    same(found, model)


def test_one_of_the_hub_comes_with_its_settings(tmp_path, monkeypatch):
    model, name = build(DCAE, CASES["dcae"]), "dc-ae-f64c128-in-1.0"
    folder = write(tmp_path / "c0ffee", project_state(model), {"model_name": name})
    asked = []
    monkeypatch.setattr(
        "smalti.interop.hub.hf_hub_download",
        lambda repo, file: asked.append(f"{repo}/{file}") or str(folder / file),
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    released = find_tokenizer(f"mit-han-lab/{name}/model.safetensors")
    assert released is not None
    found = load_module(fetch(released), modules.TOKENIZERS)[0]
    assert found.config.scale == 0.2889
    close.weights(found, model)
    assert asked == [f"mit-han-lab/{name}/{file}" for file in ("model.safetensors", "config.json")]


def mistake(capsys, folder: Path, out: Path, *options: str) -> str:
    with pytest.raises(SystemExit) as error:
        convert(folder, out, *options)
    assert error.value.code == 2
    return capsys.readouterr().err


def test_files_that_do_not_tell_all_are_refused(tmp_path, capsys):
    model = build(DCAE, CASES["dcae"])
    folder = write(tmp_path / "f", diffusers_state(model), None)
    line = mistake(capsys, folder, tmp_path / "o")
    assert "give --scale, one over their standard deviation (published: f32c32-in-1.0" in line
    line = mistake(capsys, folder, tmp_path / "o", "--scale", "0.5", "--size", "17")
    assert "--size" in line and "17" in line
    for bad, message in (
        ({"decoder_act_fns": "tanh"}, "activations are silu, relu, gelu, mish, config.json says"),
        ({"encoder_out_shortcut": 1}, "option encoder_out_shortcut must be bool, got 1"),
    ):
        (folder / "config.json").write_text(json.dumps(told(model.config) | bad))
        assert message in mistake(capsys, folder, tmp_path / "o")
    state = diffusers_state(model)
    del state["decoder.norm_out.bias"]
    line = mistake(capsys, write(tmp_path / "g", state, told(model.config)), tmp_path / "o")
    assert "decoder.norm_out.bias" in line
    assert not (tmp_path / "o").exists()


def test_published_sizes():
    counts = {f32c32: 323_356_460, f64c128: 676_896_140, f128c512: 1_120_682_252}
    for config, count in (counts | {sana: 312_250_275}).items():
        with torch.device("meta"):
            model = DCAE(config())
        assert sum(p.numel() for p in model.parameters()) == count
