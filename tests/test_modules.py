import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders import build, models, texts, tokenizers
from smalti import modules
from smalti.models import llamagen
from smalti.modules import fingerprint, load_module, save_module

ALL = {**modules.TOKENIZERS, **modules.MODELS, **modules.TEXT}


def model(seed: int = 0) -> llamagen.LlamaGen:
    return build(llamagen.LlamaGen, llamagen.tiny(), seed)


@pytest.mark.parametrize("name", [*models(), *tokenizers(), *texts()])
def test_a_module_comes_back_bit_for_bit(tmp_path, name):
    module = build(*{**models(), **tokenizers(), **texts()}[name])
    mark = save_module(module, tmp_path / "m", note="kept")
    loaded, info = load_module(tmp_path / "m", ALL)
    assert type(loaded) is type(module) and loaded.config == module.config
    assert info["note"] == "kept" and info["fingerprint"] == mark == fingerprint(loaded)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    state = loaded.state_dict()
    assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())


def test_the_fingerprint_changes_with_a_weight_and_with_the_configuration():
    first, other = model(), model()
    assert fingerprint(first) == fingerprint(other)
    with torch.no_grad():
        other.layers[1].feed_forward.w2.weight[0, 0] += 1e-6
    assert fingerprint(first) != fingerprint(other)
    other = model()
    assert fingerprint(other.to(torch.bfloat16)) != fingerprint(first)
    eps = build(llamagen.LlamaGen, replace(llamagen.tiny(), norm_eps=1e-6))
    assert fingerprint(eps) != fingerprint(first)


def test_a_dtype_converts_floating_point_weights(tmp_path):
    save_module(model(), tmp_path / "m")
    loaded, _ = load_module(tmp_path / "m", ALL, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded.norm.weight, model().norm.weight.bfloat16())


def test_saving_again_replaces_the_files_of_a_module_and_keeps_all_others(tmp_path):
    save_module(model(0), tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    mark = save_module(model(1), tmp_path / "m")
    assert fingerprint(load_module(tmp_path / "m", ALL)[0]) == mark == fingerprint(model(1))
    names = ["config.json", "model.safetensors", "notes.txt"]
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == names
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def damage(folder, how: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    values, tensors = json.loads(config.read_text()), load_file(weights)
    if how == "no config":
        config.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "cut config":
        config.write_text(config.read_text()[:-20])
    elif how == "type":
        config.write_text(json.dumps(values | {"type": "varr"}))
    elif how == "field":
        config.write_text(json.dumps(values | {"config": values["config"] | {"layer": 3}}))
    elif how == "value":
        config.write_text(json.dumps(values | {"config": values["config"] | {"layers": 0}}))
    elif how == "shape":
        save_file(tensors | {"norm.weight": torch.ones(7)}, weights)
    elif how == "missing tensor":
        save_file({k: v for k, v in tensors.items() if k != "norm.weight"}, weights)
    elif how == "extra tensor":
        save_file(tensors | {"stranger": torch.ones(1)}, weights)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", "m is not a folder with a config.json"),
        ("no weights", "model.safetensors cannot be read"),
        ("cut weights", "model.safetensors cannot be read"),
        ("cut config", "config.json is not valid JSON"),
        (
            "type",
            "type must be one of .*llamagen.*, got 'varr'",
        ),
        ("field", "config.json has no field 'layer'; did you mean 'layers'"),
        ("value", "layers must be at least 1, got 0"),
        ("shape", r"model.safetensors: norm.weight has shape \(7,\), its conf.* asks for \(32,\)"),
        ("missing tensor", r"1 tensors missing \['norm.weight'\], 0 unknown"),
        ("extra tensor", r"0 tensors missing \[\], 1 unknown \['stranger'\]"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path, how, message):
    save_module(model(), tmp_path / "m")
    damage(tmp_path / "m", how)
    with pytest.raises(ValueError, match=message):
        load_module(tmp_path / "m", ALL)


def test_an_unregistered_module_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Linear is not registered"):
        save_module(torch.nn.Linear(1, 1), tmp_path / "m")
