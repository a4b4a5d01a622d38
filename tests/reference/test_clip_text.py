"""Features of a CLIP's text encoder against outputs of the official code: those of whole texts, the
layers behind the words, and what becomes of both. The pictures' encoder is read as it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import folders, load
from torch.nn import functional as F

from smalti.text.clip import CLIP, CLIPConfig, config_of

transformers: Any = pytest.importorskip("transformers", reason="smalti[text] is missing")


def write_clip(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> str:
    """A folder as the hub has them, without a tokenizer."""
    told = config["constructor"]
    parts = {
        name: told[name] | {"layer_norm_eps": told.get("layer_norm_eps", 1e-5)}
        for name in ("text", "vision")
    }
    settings = transformers.CLIPConfig(
        text_config=parts["text"],
        vision_config=parts["vision"],
        projection_dim=told["projection_dim"],
    )
    model = transformers.CLIPModel(settings)
    model.load_state_dict(weights, strict=False)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("folder", folders("clip"))
@torch.no_grad()
def test_clip(folder: Path, tmp_path, monkeypatch):
    config, weights, io = load(folder)
    path = write_clip(tmp_path, config, weights)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda where: None)
    monkeypatch.setattr("smalti.text.clip.fast_bf16", lambda device: False)
    ids, text = io["input_ids"], config["constructor"]["text"]
    encoder = CLIP(replace(config_of(path), length=ids.shape[1] + 1))
    width, pooled = text["hidden_size"], config["constructor"]["projection_dim"]
    assert encoder.config == CLIPConfig(path, ids.shape[1] + 1, max(width, pooled))
    features, _ = encoder(ids)
    words, whole = features[:, :-1, :width], features[:, -1, :pooled]
    tower: Any = encoder.parts.model
    seen = torch.ones(ids.shape[1], ids.shape[1]).tril().log()[None, None]
    last = tower.text_model.encoder.layers[-1](words, attention_mask=seen)
    last = last[0] if isinstance(last, tuple) else last
    last = tower.text_model.final_layer_norm(last)
    io.check("text_hidden", last)
    io.check("text_embeds", F.normalize(whole, dim=-1))
    pictures = F.normalize(io["image_embeds"], dim=-1)
    logits = weights["logit_scale"].exp() * pictures @ F.normalize(whole, dim=-1).T
    io.check("logits_per_image", logits)
    pairs = torch.arange(len(ids))
    io.check("loss", (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2)
    for name in ("pixel_values", "vision_hidden", "vision_pooled"):
        io.get(name)
    io.done()
