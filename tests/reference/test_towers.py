"""CLIP's and SigLIP's towers against outputs of the official code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import float32, folders, load
from torch import Tensor

from smalti.interop.towers import config_of, towers_state
from smalti.models.towers import Towers
from smalti.modules import assemble
from smalti.train.pairs import sigmoid_loss, softmax_loss


def towers_of(config: dict[str, Any], weights: dict[str, Tensor]) -> Towers:
    """The towers of a folder, by its settings as a config.json has them."""
    told, family = config["constructor"], config["family"]
    eps = {"layer_norm_eps": told["layer_norm_eps"]} if "layer_norm_eps" in told else {}
    settings = {k: v for k, v in told.items() if k not in ("text", "vision", "layer_norm_eps")}
    parts = {f"{name}_config": eps | told[name] for name in ("text", "vision")}
    settings |= parts | {"model_type": family}
    return assemble(Towers, config_of(settings), towers_state(float32(weights)), family)


@pytest.mark.parametrize("folder", [*folders("clip"), *folders("siglip")])
@torch.no_grad()
def test_towers(folder: Path):
    config, weights, io = load(folder)
    towers = towers_of(config, weights)
    ids, pixels = io["input_ids"], io["pixel_values"]
    hidden = towers.vision(pixels)
    io.check("vision_hidden", hidden)
    whole = towers.vision.whole(hidden)
    io.check("vision_pooled", whole)
    pictures = torch.nn.functional.normalize(whole, dim=-1)
    io.check("image_embeds", pictures)
    io.check("text_hidden", towers.text(ids))
    texts = towers.read(ids)
    io.check("text_embeds", texts)
    logits = towers.logits(pictures, texts)
    io.check("logits_per_image", logits)
    io.check("logits_per_text", logits.T)
    io.check("loss", (softmax_loss if towers.bias is None else sigmoid_loss)(logits))
    io.done()
