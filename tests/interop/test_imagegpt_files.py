"""Files of ImageGPT that do not fit each other: one line each."""

import json
import re

import pytest
import torch

from small_systems import mistake
from smalti.interop.pickles import read_described
from smalti.interop.projects.imagegpt import ImageGPTFiles, model_sizes
from smalti.models.imagegpt import ImageGPTConfig
from smalti.tokenizers.palette import PaletteConfig


@pytest.fixture
def model(tmp_path):
    """What is read of a model of 4 x 4 pixels and 8 colours before its weights are."""
    names = {
        "transformer.wte": (9, 4),
        "transformer.wpe": (16, 4),
        "transformer.h.0.attn.c_attn": (4, 12),
        "transformer.h.0.mlp.c_fc": (4, 16),
        "lm_head": (8, 4),
    }
    state = {f"{name}.weight": torch.zeros(shape) for name, shape in names.items()}
    torch.save(state, tmp_path / "model.bin")
    return tmp_path / "model.bin"


@pytest.mark.parametrize(
    ("colours", "options", "message"),
    [
        ([[0.0] * 3] * 5, [], "has 8 colours and a table of 9, .* the palette has 5 colours"),
        ([[0.0] * 3] * 8, ["--size", "3x4"], "has 16 positions, not 3 x 4; give --size"),
        ([[0.0] * 3] * 8, [], "no published model has 1 layers of width 4; give --heads"),
        ([[0.0] * 2] * 8, [], r"must hold colours \(V, 3\), got shape \(8, 2\)"),
        ("red", [], "holds no colours"),
    ],
)
def test_files_that_do_not_fit_are_refused(model, colours, options, message, tmp_path, capsys):
    palette = tmp_path / "preprocessor_config.json"
    palette.write_text(json.dumps({"clusters": colours}))
    words = ["convert", "imagegpt", "--tokenizer", palette, "--model", model]
    line = mistake(capsys, *words, "--out", tmp_path / "out", *options)
    assert re.search(message, line), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"n_head": 2, "activation_function": "relu"}, "gelu_fast, got 'relu'"),
        ({"n_head": 2, "scale_attn_weights": False}, "scale_attn_weights must be True, got False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx must be False, got True"),
        ({"n_head": "2"}, "option n_head must be int, got '2'"),
    ],
)
def test_a_config_beside_that_does_not_fit_is_refused(model, said, message, tmp_path, capsys):
    palette = tmp_path / "preprocessor_config.json"
    palette.write_text(json.dumps({"clusters": [[0.0] * 3] * 8}))
    (tmp_path / "config.json").write_text(json.dumps(said))
    words = ["convert", "imagegpt", "--tokenizer", palette, "--model", model]
    assert message in mistake(capsys, *words, "--out", tmp_path / "out")


def test_a_config_beside_says_what_tensors_do_not(model, tmp_path):
    said = {"n_head": 2, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-3}
    (tmp_path / "config.json").write_text(json.dumps(said | {"n_inner": None, "resid_pdrop": 0.2}))
    found = model_sizes(
        read_described(model), ImageGPTFiles(model), PaletteConfig(size=(4, 4), vocab=8)
    )
    wanted = ImageGPTConfig(
        grid=(4, 4), vocab=8, layers=1, heads=2, dim=4, gelu="tanh", norm_eps=1e-3, dropout=0.2
    )
    assert found == wanted
