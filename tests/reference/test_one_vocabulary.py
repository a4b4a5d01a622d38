"""Chameleon and Liquid against outputs of transformers and of the official samplers.

Loops here compute every row anew at each step: the slow version of what is drawn.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, close, float32, folders, load, size_of
from torch import Tensor
from torch.nn import functional as F

from smalti.codes import Cond, TokenSpec
from smalti.engine import causal, mixed
from smalti.engine.step import Request, Step
from smalti.interop.language import config_of, fill
from smalti.interop.projects.rq import attended
from smalti.interop.projects.var import vae_state
from smalti.models.one_vocabulary import OneVocabulary, OneVocabularyConfig
from smalti.models.unified import Marks
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.text.sequence import IGNORED, Part, Rows, rows_of
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig

NOTHING = -1e30
"""What stands in the files for minus infinity."""


def made(kind: str, config: OneVocabularyConfig, weights: dict[str, Tensor]) -> OneVocabulary:
    model = OneVocabulary(config).eval()
    with torch.no_grad():
        fill(model.language, iter(float32(weights).items()), kind, "golden")
    return model


def rows(ids: Tensor, kept: Tensor, labels: Tensor | None = None) -> Rows:
    """Rows as the files have them."""
    kept = kept.bool()
    learned = torch.zeros_like(kept) if labels is None else labels != IGNORED
    positions = (kept.cumsum(1) - 1).clamp(min=0)
    cells = torch.zeros(*ids.shape, 2, dtype=torch.int64)
    return Rows(ids, kept, learned, torch.zeros_like(ids), positions, cells)


def codes_of(model: OneVocabulary) -> Tensor:
    """Which ids stand for codes, (V,) bool."""
    return model.config.wrapping.is_code(torch.arange(model.vocab), model.spec)


def counted(some: Rows) -> Tensor:
    """How many ids upstream's loss is the mean of."""
    return (some.labels[:, 1:] != IGNORED).sum()


def next_logits(model: OneVocabulary, some: Rows) -> Tensor:
    return model.language.logits(model.hidden(some))[:, -1]


def longer(some: Rows, ids: Tensor) -> Rows:
    """With one id more in each row, (B,)."""
    end = some.positions[:, -1:] + 1
    return Rows(
        torch.cat((some.ids, ids[:, None]), 1),
        F.pad(some.kept, (0, 1), value=True),
        F.pad(some.learned, (0, 1)),
        F.pad(some.spans, (0, 1)),
        torch.cat((some.positions, end), 1),
        F.pad(some.cells, (0, 0, 0, 1)),
    )


# -- Chameleon


def chameleon(
    config: dict[str, Any], weights: dict[str, Tensor], size: tuple[int, int]
) -> OneVocabulary:
    """The model of a folder, of pictures of this size in pixels."""
    told, ids = config["constructor"], config["special_ids"]
    names = {id: name for name, id in config["vocabulary_map"].items() if "IMGIMG" in name}
    digits = str.maketrans("ABCDEFGHIJ", "0123456789")
    order = [int(names[i].removeprefix("IMGIMG")[:-1].translate(digits)) for i in sorted(names)]
    qk = told.get("qk_norm", "LayerNorm per head")
    assert "LayerNorm per head" in qk
    language = config_of({**told, "model_type": "chameleon"})
    factor = 2 ** (len(told["vq_config"]["channel_multiplier"]) - 1)
    model = OneVocabularyConfig(
        language, (size[0] // factor, size[1] // factor), len(order), min(names), tuple(order),
        ids["boi"], ids["eoi"],
        marks=Marks(ids["bos"], (ids["eos"], ids["sep"]), ids["pad"]),
    )  # fmt: skip
    return made("chameleon", model, weights)


def encoder(told: dict[str, Any], weights: dict[str, Tensor], size: tuple[int, int]) -> VQGAN:
    """The tokenizer, of which the files have no decoder; the resolution that they say is a name
    for where attention is."""
    side = told["resolution"]
    config = VQGANConfig(
        size=size,
        channels=told["base_channels"],
        multipliers=tuple(told["channel_multiplier"]),
        blocks=told["num_res_blocks"],
        latent=told["latent_channels"],
        vocab=told["num_embeddings"],
        dim=told["embed_dim"],
        l2_norm=False,
        deep_attention=False,
        attention_at=attended(side, told | {"ch_mult": told["channel_multiplier"]}),
    )
    tokenizer, begin = VQGAN(config).eval(), "model.vqmodel."
    state = {n.removeprefix(begin): t for n, t in weights.items() if n.startswith(begin)}
    missing = tokenizer.load_state_dict(vae_state(float32(state)), strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("decoder.") for name in missing.missing_keys)
    return tokenizer


@pytest.mark.parametrize("folder", folders("chameleon_lm"))
@torch.no_grad()
def test_chameleon(folder: Path):
    config, weights, io = load(folder)
    size = size_of(io["pixel_values"])
    model = chameleon(config, weights, size)
    codec = encoder(config["constructor"]["vq_config"], weights, size)
    check_pictures(model, codec, config, io)
    check_likelihood(model, io)
    check_text(model, config, io)
    check_drawing(model, config, io)
    io.done()


def check_pictures(model: OneVocabulary, codec: VQGAN, config: dict[str, Any], io: Vectors) -> None:
    """Compare what pictures become, and rows with placeholders."""
    codes = codec.encode(io["pixel_values"])
    io.check("vq_indices", codes)
    ids = model.wrapping.id_of(codes)
    io.check("image_bpe_ids", ids)
    assert torch.equal(model.config.wrapping.code_of(ids), codes)
    io.check("img2bpe", model.wrapping.id_of(torch.arange(model.config.codes)))
    io.check("image_token_ids", codes_of(model).nonzero().flatten())
    placeholder = io["input_ids"] == config["special_ids"]["image_placeholder"]
    full = io["input_ids"].masked_scatter(placeholder, ids)
    io.check("full_ids", full)
    written = rows_of([[Part(c, TokenSpec(((1, len(c)),), model.config.codes))] for c in codes],
                      model.wrapping)  # fmt: skip
    for row, mine in zip(full, written.ids, strict=True):
        assert any(torch.equal(part, mine) for part in row.unfold(0, len(mine), 1))


def check_likelihood(model: OneVocabulary, io: Vectors) -> None:
    """Compare hidden states, logits and losses."""
    some = rows(io["full_ids"], io["attention_mask"], io["labels_all"])
    assert torch.equal(some.positions[some.kept], io["position_ids"][some.kept])
    h = model.hidden(some)
    kept, logits = some.kept, model.language.logits(h)
    close(h[kept], io["last_hidden"][kept])
    close(logits[kept], io["logits"][kept])
    codes = codes_of(model)
    close(logits[kept][:, ~codes], io["logits_hf"][kept][:, ~codes])
    assert (io["logits_hf"][kept][:, codes] <= NOTHING).all(), "transformers writes no codes"
    assert torch.equal(some.labels, io["labels_all"])
    padded = io["logits"][:, :-1]
    io.check("loss_all", (model.loss(some).sum() + from_padding(some, padded)) / counted(some))
    # transformers leaves codes out before its loss of text
    text = rows(io["full_ids"], io["attention_mask"], io["labels_text"])
    nats = F.cross_entropy(
        logits.masked_fill(codes, -torch.inf)[:, :-1].mT,
        text.labels[:, 1:].masked_fill(~kept[:, :-1], IGNORED),
        ignore_index=IGNORED,
        reduction="sum",
    )
    without = padded.masked_fill(codes, -torch.inf)
    io.check("loss_text_hf", (nats + from_padding(text, without)) / counted(text))


def from_padding(some: Rows, logits: Tensor) -> Tensor:
    """Nats of what upstream predicts from padding, by its own logits there (B, L - 1, V)."""
    labels = some.labels[:, 1:].masked_fill(some.kept[:, :-1], IGNORED)
    return F.cross_entropy(logits.mT, labels, ignore_index=IGNORED, reduction="sum")


def check_text(model: OneVocabulary, config: dict[str, Any], io: Vectors) -> None:
    """Compare what is written after a prompt where no code may be. The file does not say which of
    its pictures stands in the prompt."""
    prompt, codes = io["text_prompt_ids"], codes_of(model)
    placeholder = prompt == config["special_ids"]["image_placeholder"]
    written = list[Tensor]()
    for ids in io["image_bpe_ids"]:
        full = prompt.masked_scatter(placeholder, ids)
        some = rows(full, torch.ones_like(full))
        for _ in range(io["text_greedy_ids"].shape[1]):
            some = longer(some, next_logits(model, some).masked_fill(codes, -torch.inf).argmax(-1))
        written.append(some.ids[:, prompt.shape[1] :])
        blank = Part(torch.zeros(written[-1].shape[1], dtype=torch.int64))
        context = rows_of([[Part(full[0]), blank]], model.wrapping)
        writer = model.writer(context, len(blank.content), ~codes[None])
        assert torch.equal(last(causal.stream(writer, greedy(1))), written[-1])
    same = [ids for ids in written if torch.equal(ids, io["text_greedy_ids"])]
    io.check("text_greedy_ids", (same or written)[0])


def check_drawing(model: OneVocabulary, config: dict[str, Any], io: Vectors) -> None:
    """Compare a picture drawn with the whole prompt, its pictures alone, and nothing."""
    some, weights = rows(io["gen_prompt_ids"], io["gen_prompt_mask"]), config["guidance"]
    codes, mixed = codes_of(model), list[Tensor]()
    for _ in range(io["gen_image_ids"].shape[1]):
        full, pictures, nothing = next_logits(model, some).chunk(3)
        logits = nothing + weights["image"] * (pictures - nothing) + weights["text"] * (
            full - pictures
        )  # fmt: skip
        mixed.append(logits[:, codes])
        drawn = logits.masked_fill(~codes, -torch.inf).argmax(-1)
        some = longer(some, drawn.repeat(3))
    io.check("gen_mixed_image_logits", torch.stack(mixed, 1))
    drawn = some.ids[: len(io["gen_image_ids"]), io["gen_prompt_ids"].shape[1] :]
    io.check("gen_image_ids", drawn)
    guidance = Guidance(weights["text"], pictures=weights["image"])
    same_by_loop(model, io, guidance, model.config.wrapping.code_of(drawn))


def same_by_loop(model: OneVocabulary, io: Vectors, guidance: Guidance, codes: Tensor) -> None:
    """Compare codes with those of the loop, and rows with those that guidance asks for."""
    documents = [document(model, ids[kept.bool()]) for ids, kept in prompts(io, len(codes))]
    picture = mixed.picture_of(model)
    whole = [[*parts, picture] for parts in documents]
    branches = whole + [*map(model.nothing, whole)]
    if guidance.pictures is not None:
        branches = whole + [*map(model.pictures, whole)] + [*map(model.nothing, whole)]
    asked = rows_of(branches, model.wrapping, left=True).ids
    begin = asked.shape[1] - model.wrapping.length(picture) + 1
    for ours, ids, kept in zip(
        asked, io.get("gen_prompt_ids"), io.get("gen_prompt_mask").bool(), strict=True
    ):
        assert torch.equal(ours[begin - int(kept.sum()) : begin], ids[kept])
    wish = mixed.MixedRequest(
        documents,
        replace(greedy(len(codes)), guidance=guidance),
        torch.zeros(model.vocab, dtype=torch.bool),
        first="picture",
    )
    drawn = [e.part for e in mixed.stream(model, wish) if isinstance(e, mixed.Finished)]
    assert torch.equal(torch.stack([part.content for part in drawn]), codes)


def prompts(io: Vectors, count: int) -> list[tuple[Tensor, Tensor]]:
    """The prompts of so many pictures, with where they are no padding."""
    pairs = zip(io.get("gen_prompt_ids"), io.get("gen_prompt_mask"), strict=True)
    return list(pairs)[:count]


def document(model: OneVocabulary, ids: Tensor) -> list[Part]:
    """Ids that end where a picture begins, as parts."""
    *parts, empty = ids.tensor_split((ids == model.config.begin).nonzero().flatten().tolist())
    assert empty.tolist() == [model.config.begin]
    found = [Part(parts[0])]
    for part in parts[1:]:
        end = 1 + model.spec.positions
        found.append(Part(model.config.wrapping.code_of(part[1:end]), model.spec))
        found.append(Part(part[end + 1 :]))
    return found


def greedy(batch: int) -> Request:
    """The likeliest codes."""
    cond = Cond(labels=torch.arange(batch))
    return Request(cond, Noise.request(0, batch), filters=Filters(top_k=1))


def last(steps: Iterator[Step]) -> Tensor:
    return list(steps)[-1].codes


# -- Liquid


def liquid(config: dict[str, Any], weights: dict[str, Tensor], count: int) -> OneVocabulary:
    told, ids = config["constructor"], config["ids"]
    kind = told["kind"]
    language = config_of({**told, "model_type": kind, "hidden_act": None})
    model = OneVocabularyConfig(
        language, (1, count), ids["n_codes"], ids["code_offset"], (), ids["boi"], ids["eoi"], False,
        Marks(ids["bos"], (ids["eos"],), ids["pad"], ids["unconditional"]),
    )  # fmt: skip
    return made(kind, model, weights)


@pytest.mark.parametrize("folder", folders("liquid_lm"))
@torch.no_grad()
def test_liquid(folder: Path):
    config, weights, io = load(folder)
    model = liquid(config, weights, io["codes"].shape[1])
    check_rows(model, config, io)
    some = rows(io["input_ids"], io["attention_mask"], io["labels"])
    logits, kept = model.language.logits(model.hidden(some)), some.kept
    close(logits[kept], io["logits"][kept])
    io.check("loss", model.loss(some).sum() / counted(some))
    check_guided(model, config, io)
    io.done()


def check_rows(model: OneVocabulary, config: dict[str, Any], io: Vectors) -> None:
    """Compare what is learned of a picture from text, of one from nothing, of text from a picture,
    and of text, of parts that are read off the rows."""
    ids, pad = io["input_ids"], config["ids"]["pad"]
    lengths = io["attention_mask"].sum(1)
    documents = list[list[Part]]()
    pictures = iter(io["codes"])
    for row, length, labels in zip(ids, lengths, io["labels"], strict=True):
        row, labels = row[:length], labels[:length]
        at = (row == model.config.begin).nonzero()
        if not len(at):
            documents.append([Part(row)])
            continue
        begin, codes = int(at[0]), next(pictures)
        end = begin + 1 + len(codes)
        drawn = bool(labels[begin + 1] != IGNORED)
        after, first = row[end + 1 :], int((labels[end + 1 :] == IGNORED).sum())
        parts = [Part(row[:begin], learned=False), Part(codes, model.spec, drawn)]
        parts += [Part(after[:first], learned=False), Part(after[first:])]
        documents.append(parts)
    some = rows_of(documents, model.wrapping, pad)
    io.check("input_ids", some.ids)
    io.check("attention_mask", some.kept)
    io.check("labels", some.labels)


def check_guided(model: OneVocabulary, config: dict[str, Any], io: Vectors) -> None:
    """Compare a picture drawn with guidance, the likeliest code of those that filters leave."""
    told, codes = config["sampling"], codes_of(model)
    filters = Filters(told["temperature"], told["top_k"], told["top_p"])
    some = rows(io["gen_prompt_ids"], io["gen_prompt_mask"])
    mixed, kept = list[Tensor](), list[Tensor]()
    for _ in range(io["gen_codes"].shape[1]):
        cond, uncond = next_logits(model, some).chunk(2)
        logits = uncond + told["guidance"] * (cond - uncond)
        mixed.append(logits)
        kept.append(filters(logits.masked_fill(~codes, -torch.inf)))
        some = longer(some, kept[-1].argmax(-1).repeat(2))
    io.check("gen_mixed_logits", torch.stack(mixed, 1))
    filtered = torch.stack(kept, 1)
    io.check("gen_filtered", filtered.clamp(min=NOTHING), size=_size(io["gen_filtered"]))
    drawn = some.ids[: len(io["gen_codes"]), io["gen_prompt_ids"].shape[1] :]
    io.check("gen_codes", model.config.wrapping.code_of(drawn))
    same_by_loop(model, io, Guidance(told["guidance"]), model.config.wrapping.code_of(drawn))


def _size(values: Tensor) -> float:
    """The largest of those that are no minus infinity."""
    return values[values > NOTHING / 2].abs().max().item()
