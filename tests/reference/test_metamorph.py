"""MetaMorph against outputs of the official code: what is read, learned and said, and adapters."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, close, float32, folders, load
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import Cond
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.interop.language import config_of
from smalti.interop.projects.metamorph import adapter_state, features_of, model_state
from smalti.models.metamorph import MetaMorph, MetaMorphConfig
from smalti.models.unified import Marks
from smalti.nn.adapters import AdapterConfig, adapter
from smalti.nn.features import formed, reduced
from smalti.sampling.filters import Filters
from smalti.sampling.noise import Noise
from smalti.text.sequence import IGNORED, Part, rows_of


def made(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> MetaMorph:
    told, ids = config["constructor"], config["special_ids"]
    model = MetaMorph(MetaMorphConfig(
        config_of({**told, "model_type": "llama"}), begin=ids["image_start"], end=ids["image_end"],
        marks=Marks(None, (ids["eos"],), ids["pad"]),
        **features_of(told, told.get("vision_dim", 1152)),
    )).eval()  # fmt: skip
    mine = {n: t for n, t in float32(weights).items() if not n.startswith("adapter_")}
    model.load_state_dict(model_state(mine, model.config.language))
    return model


@pytest.mark.parametrize("folder", folders("metamorph"))
@torch.no_grad()
def test_metamorph(folder: Path):
    config, weights, io = load(folder)
    model = made(config, weights)
    features = formed(reduced(io["siglip_features"], model.config.grid), model.config.form)
    io.check("image_features", features)
    io.check("projected", model.projector(features))
    check_rows(model, config, features, io)
    check_saying(model, config, features, io)
    check_adapters(config, weights, io)
    io.done()


def parts_of(
    model: MetaMorph, config: Mapping[str, Any], ids: Tensor, labels: Tensor, features: Iterator
) -> list[Part]:
    """A row of the file as parts: a placeholder between the ids around it is a picture, which is
    learned where the id before it is."""
    parts, begin = list[Part](), 0
    places = (ids == config["special_ids"]["image_placeholder"]).nonzero().flatten().tolist()
    for at in [*places, len(ids) + 1]:
        for id, label in zip(ids[begin : at - 1], labels[begin : at - 1], strict=True):
            parts.append(Part(id[None], learned=bool(label != IGNORED)))
        if at < len(ids):
            learned = bool(labels[at - 1] == model.config.begin)
            parts.append(Part(next(features), model.spec, learned))
        begin = at + 2
    return parts


def check_rows(model: MetaMorph, config: Mapping[str, Any], features: Tensor, io: Vectors) -> None:
    """Compare what rows become, logits and losses."""
    pictures, inputs = iter(features), (io["input_ids"], io["labels"], io["attention_mask"].bool())
    documents = [
        parts_of(model, config, ids[kept], labels[kept], pictures)
        for ids, labels, kept in zip(*inputs, strict=True)
    ]
    rows = rows_of(documents, model.wrapping, model.marks.pad)
    length, kept = rows.ids.shape[1], rows.kept
    io.check("expanded_mask", kept)
    io.check("expanded_labels", rows.labels)
    io.check("image_positions", rows.drawn & rows.learned)
    assert torch.equal(rows.positions[kept], io["position_ids"][kept])
    inputs = model.inputs(rows, 0, length) * kept.unsqueeze(-1)  # upstream pads with zeros
    io.check("inputs_embeds", inputs)
    h = model.read(rows, 0, length, None)
    close(model.logits(h)[kept], io["logits"][kept])
    assert rows.vectors is not None
    io.check("target_features", rows.vectors[rows.drawn & rows.learned])
    said = F.pad(h, (0, 0, 1, 0))[:, :-1][rows.drawn & rows.learned]
    io.check("pred_features", model.said(said))
    terms = model.terms(rows, Noise.request(0, len(kept)))
    means = {n: (t.values * t.where).sum() / t.where.sum().clamp(min=1) for n, t in terms.items()}
    scale = io["loss"].abs().item()
    io.check("loss_language", means["text"])
    io.check("loss_image", means["features"], size=1.0)
    told = config["constructor"]
    weight = told.get("vision_coef", 1.0) * told.get("use_vision_ar", True)
    io.check("loss", means["text"] + weight * means["features"], size=scale)


def check_saying(
    model: MetaMorph, config: Mapping[str, Any], features: Tensor, io: Vectors
) -> None:
    """Compare a picture said behind a prompt, and the text behind the picture, by the loop."""
    (prompt,), count = io["gen_prompt_ids"], len(io["gen_text_after"])
    assert int(prompt[-1]) == model.config.begin
    unlearned = torch.full_like(prompt, IGNORED)
    before = parts_of(model, config, prompt[:-1], unlearned[:-1], iter(features))
    request = Request(Cond(labels=torch.arange(1)), Noise.request(0, 1), filters=Filters(top_k=1))
    wish = mixed.MixedRequest(
        [before], replace(request, filters=Filters()),
        torch.ones(model.vocab, dtype=torch.bool), text=Filters(top_k=1), most=count, pictures=1,
        first="picture",
    )  # fmt: skip
    picture, text = (e.part for e in mixed.stream(model, wish) if isinstance(e, mixed.Finished))
    io.check("gen_features", picture.content)
    io.check("gen_text_after", text.content)


def check_adapters(config: Mapping[str, Any], weights: Mapping[str, Tensor], io: Vectors) -> None:
    """Compare each adapter of the file."""
    for name, told in config.get("adapters", {}).items():
        least = 2 if told["mode"] == "mlp" else 1  # upstream has a first and a last layer
        settings = AdapterConfig(
            told["mode"], max(told.get("num_layers", 6), least), told["output_dim"],
            told.get("hidden_dim", 4096), told.get("num_tokens", 77), told.get("num_heads", 8),
        )  # fmt: skip
        module, begin = adapter(told["input_dim"], settings).eval(), f"adapter_{name}."
        mine = {n.removeprefix(begin): t for n, t in weights.items() if n.startswith(begin)}
        module.load_state_dict(adapter_state(float32(mine)))
        io.check(f"adapter_{name}", module(io["adapter_in"]))
