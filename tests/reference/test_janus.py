"""Janus against outputs of transformers: eye, tokenizer, both ways of a picture, and drawing.

The loop here computes every row anew at each step: the slow version of what is drawn.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, float32, folders, load
from torch import Tensor

from smalti.codes import Cond
from smalti.engine import mixed
from smalti.engine.step import Request
from smalti.interop.language import config_of, fill
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.janus import (
    eye_state,
    inside,
    language_name,
    own_name,
    tokenizer_state,
)
from smalti.interop.projects.llamagen import vq_sizes
from smalti.interop.towers import GELU
from smalti.models.eye import TowerEye, TowerEyeConfig
from smalti.models.janus import Janus, JanusConfig
from smalti.models.towers import TowerConfig
from smalti.models.unified import Marks
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.text.sequence import IGNORED, Document, Part, Rows, rows_of
from smalti.tokenizers.vqgan import VQGAN


def act_of(told: dict[str, Any]) -> Any:
    """The GELU of settings; "gelu (exact)" is "gelu"."""
    return GELU[told.get("hidden_act", "gelu").partition(" ")[0]]


def eye_of(config: dict[str, Any], weights: dict[str, Tensor]) -> TowerEye:
    told = config["constructor"]["vision"]
    eye = TowerEye(
        TowerEyeConfig(
            size=told["image_size"],
            patch=told["patch_size"],
            vision=TowerConfig(
                told["num_hidden_layers"], told["num_attention_heads"], told["hidden_size"],
                int(told["hidden_size"] * told["mlp_ratio"]),
                act_of(told),
                told["layer_norm_eps"],
            ),
        )
    )  # fmt: skip
    eye.load_state_dict(eye_state(weights))
    return eye.eval()


def tokenizer_of(config: dict[str, Any], weights: dict[str, Tensor]) -> VQGAN:
    state, side = tokenizer_state(weights), config["constructor"]["vision"]["image_size"]
    sizes = vq_sizes(Checkpoint(Path("golden"), state, {}))
    tokenizer = VQGAN(replace(sizes, size=(side, side), plain_codes=True))
    tokenizer.load_state_dict(state)
    return tokenizer.eval()


def model_of(config: dict[str, Any], weights: dict[str, Tensor]) -> Janus:
    told, ids = config["constructor"], config["special_ids"]
    vision, codes = told["vision"], told["vq"]
    side = vision["image_size"] // vision["patch_size"]
    assert side**2 == vision["num_image_tokens"] == codes["num_patches"] ** 2
    inner, dim = codes["projection_dim"], told["text"]["hidden_size"]
    language = config_of({**told["text"], "model_type": "llama"})
    language = replace(language, tied="lm_head.weight" not in weights)
    model = Janus(
        JanusConfig(
            language, (side, side), codes["num_embeddings"],
            code_dim=codes["embed_dim"], code_layers=codes["num_hidden_layers"],
            code_gelu=act_of(codes), head_dim=0 if inner == dim else inner,
            seen_grid=(side, side), seen_dim=vision["hidden_size"], seen_layers=vision["depth"],
            seen_gelu=act_of(vision), begin=ids["boi"], end=ids["eoi"],
            marks=Marks(ids["bos"], (ids["eos"],), ids["pad"]),
        )
    )  # fmt: skip
    own = {ours: t for name, t in weights.items() if (ours := own_name(name))}
    missing = model.load_state_dict(own, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("language.") for name in missing.missing_keys)
    named = ((language_name(name), t) for name, t in weights.items())
    with torch.no_grad():
        fill(model.language, ((n, t) for n, t in named if n), "llama", "golden")
    return model.eval()


@pytest.mark.parametrize("folder", folders("janus"))
@torch.no_grad()
def test_janus(folder: Path):
    config, stored, io = load(folder)
    weights = float32(stored)
    eye, tokenizer = eye_of(config, weights), tokenizer_of(config, weights)
    model = model_of(config, weights)
    known = {*inside(weights, "vision_model"), *inside(weights, "vqmodel")}
    assert all(
        own_name(name) or language_name(name) or name.split(".", 2)[2] in known for name in weights
    )
    check_pictures(model, eye, tokenizer, io)
    check_reading(model, config, io)
    check_likelihood(model, tokenizer, io)
    check_drawing(model, config, io)
    if "gen_image" in io:
        io.check("gen_image", tokenizer.decode(io["gen_tokens"]))
    io.done()


def check_pictures(model: Janus, eye: TowerEye, tokenizer: VQGAN, io: Vectors) -> None:
    """What the eye sees, and what pictures are as codes."""
    seen = eye.encode(io["pixel_values"])
    io.check("vision_features", seen)
    io.check("aligned_features", model.aligner(seen))
    io.check("vq_indices", tokenizer.encode(io["pixel_values"]))
    losses = tokenizer.quantize(tokenizer.latent(io["pixel_values"])).losses
    io.check("vq_emb_loss", losses["commitment"] + 0.25 * losses["codebook"])
    io.check("vq_decoded", tokenizer.decode(io["vq_indices"]))
    io.check("gen_embeds", model.code_aligner(model.code_embeddings(io["vq_indices"])))


def check_reading(model: Janus, config: dict[str, Any], io: Vectors) -> None:
    """Text around what the eye sees, which stands where the placeholders are."""
    ids, labels, seen = io["input_ids"], io["labels"], io["vision_features"]
    spec = model.config.sight.spec
    documents = list[Document]()
    for row, features in zip(ids, seen, strict=True):
        where = (row == config["special_ids"]["image_placeholder"]).nonzero().flatten()
        first, last = int(where[0]), int(where[-1])
        assert row[first - 1] == model.config.begin and row[last + 1] == model.config.end
        picture = Part(features, spec, learned=False, seen=True)
        documents.append([Part(row[: first - 1]), picture, Part(row[last + 2 :])])
    rows = rows_of(documents, model.wrapping)
    assert torch.equal(rows.ids.masked_fill(rows.seen, 0), ids.masked_fill(rows.seen, 0))
    io.check("logits", model.logits(model.read(rows, 0, ids.shape[1], None)))
    term = model.terms(rows._replace(learned=labels != IGNORED), Noise.request(0, 1))["text"]
    io.check("loss_text", (term.values * term.where).sum() / term.where.sum())


def prompts(ids: Tensor, kept: Tensor) -> list[Document]:
    """Rows of ids that are padded on the left, and end where a picture begins."""
    return [[Part(row[mask.bool()][:-1])] for row, mask in zip(ids, kept, strict=True)]


def check_likelihood(model: Janus, tokenizer: VQGAN, io: Vectors) -> None:
    """Codes behind their prompts."""
    codes = io["vq_indices"]
    asked = prompts(io["gen_prompt_ids"], io["gen_prompt_mask"])
    documents = [[*p, Part(c, model.spec)] for p, c in zip(asked, codes, strict=True)]
    rows = rows_of(documents, model.wrapping, model.marks.pad, left=True)
    count = model.spec.positions
    h = model.read(rows, 0, rows.ids.shape[1], None)[:, -count - 2 : -2]
    io.check("gen_logits", model.code_logits(h))
    term = model.terms(rows, Noise.request(0, 1))["codes"]
    io.check("loss_image", (term.values * term.where).sum() / term.where.sum())


def check_drawing(model: Any, config: dict[str, Any], io: Vectors) -> None:
    """The rows that guidance compares, and the codes that are drawn, greedily."""
    documents = prompts(io["gen_prompt_ids"], io["gen_prompt_mask"])
    empty = Part(model.spec.empty(1)[0], model.spec)
    count = model.spec.positions
    for name, some in (
        ("gen_prompt_ids", [[*d, empty] for d in documents]),
        ("gen_uncond_ids", [model.nothing([*d, empty]) for d in documents]),
    ):
        rows = rows_of(some, model.wrapping, model.marks.pad, left=True)
        io.check(name, rows.ids[:, : -count - 1])
        assert torch.equal(rows.kept[:, : -count - 1], io["gen_prompt_mask"].bool())
    how = Request(
        Cond(labels=torch.arange(len(documents))), Noise.request(0, len(documents)),
        Guidance(config["guidance"]), Filters(temperature=0.0),
    )  # fmt: skip
    wish = mixed.MixedRequest(documents, how, torch.ones(model.vocab).bool(), first="picture")
    drawn = [e.part.content for e in mixed.stream(model, wish) if isinstance(e, mixed.Finished)]
    io.check("gen_tokens", torch.stack(drawn))
    io.check("gen_tokens_hf_generate", torch.stack(drawn))
    io.check("gen_mixed_logits", slowly(model, documents, torch.stack(drawn), config["guidance"]))


def slowly(model: Janus, documents: list[Document], codes: Tensor, scale: float) -> Tensor:
    """What codes are predicted by, with both rows read anew, (B, N, K)."""
    count, found = model.spec.positions, list[Tensor]()
    whole = [[*d, Part(c, model.spec)] for d, c in zip(documents, codes, strict=True)]
    for some in (whole, [model.nothing(d) for d in whole]):
        rows: Rows = rows_of(some, model.wrapping, model.marks.pad, left=True)
        h = model.read(rows, 0, rows.ids.shape[1], None)
        found.append(model.code_logits(h[:, -count - 2 : -2]))
    with_text, without = found
    return without + scale * (with_text - without)
