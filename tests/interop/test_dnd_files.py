"""DnD-Transformer's generators beside their tokenizer: stored options, those of the command, sizes
that were published; refusals."""

import re
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from test_rq_files import published, refused

from builders import build
from official import write
from smalti.cli.main import main
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.dnd import gpt_sizes
from smalti.loading import load
from smalti.models.dnd import SIZES, DnD, DnDConfig, tiny
from smalti.tokenizers.rq_vae import RQVAE
from smalti.tokenizers.rq_vae import tiny as small

CODES = small()
MODEL = replace(
    tiny(),
    grid=CODES.spec.grids[0],
    vocab=CODES.vocab,
    depth=CODES.depth,
    layers=CODES.depth + 2,
    at=(0, *range(3, CODES.depth + 2)),
)
AT = ",".join(map(str, MODEL.at))


def state_of(model: DnD, spare: int = 0) -> dict[str, torch.Tensor]:
    """Official tensors, with so many layers behind the last head."""
    c, found = model.config, {}
    for name, tensor in model.state_dict().items():
        if name.startswith("head.parts."):
            for d in range(c.depth) if c.shared_heads else [int(name.split(".")[2])]:
                found[f"output.{d}.weight"] = tensor
            continue
        name = name.replace("head.norms.", "norm.")
        found[name.replace("cls_embedding.", "cls_embedding.embedding_table.")] = tensor
    last = f"layers.{c.layers - 1}."
    for i in range(spare):
        found |= {
            n.replace(last, f"layers.{c.layers + i}."): t.clone()
            for n, t in found.items()
            if n.startswith(last)
        }
    return found


@pytest.fixture
def tokenizer(tmp_path):
    return published(build(RQVAE, CODES), tmp_path / "t")


def convert(tokenizer, file, out, *more):
    given = ["convert", "dnd", "--tokenizer", tokenizer, "--model", file, "--out", out, *more]
    main([str(word) for word in given])
    return load(str(out), dtype="float32")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_a_generator_and_its_tokenizer_become_a_pipeline(shared, stored, tokenizer, tmp_path):
    model = build(DnD, replace(MODEL, shared_heads=shared))
    holder = {"model": state_of(model, spare=1), "ema": state_of(build(DnD, model.config, 1), 1)}
    more = ["--heads", "2"]
    if stored:
        holder["args"] = Namespace(pred_head_positions=AT, class_dropout_prob=0.1, dropout_p=0.0)
    else:
        more += ["--at", AT]
    pipe = convert(tokenizer, write(holder, tmp_path / "m.pt"), tmp_path / "p", *more)
    expected = model.config if stored else replace(model.config, dropout=0.1)
    assert pipe.model.config == expected
    for name, tensor in model.state_dict().items():
        assert torch.equal(pipe.model.state_dict()[name], tensor), name
    assert pipe.sampling.guidance.scale == 2.0
    assert pipe([1], seed=0)[0].size == CODES.size[::-1]


def test_one_kind_of_picture_has_no_null_class(tokenizer, tmp_path):
    state = state_of(build(DnD, MODEL))
    table = state["cls_embedding.embedding_table.weight"][:1].clone()
    state["cls_embedding.embedding_table.weight"] = table
    file = write({"model": state}, tmp_path / "m.pt")
    pipe = convert(tokenizer, file, tmp_path / "p", "--heads", "2", "--at", AT)
    assert pipe.model.config.classes == 1 and pipe.sampling.filters.temperature == 0.1
    assert torch.equal(pipe.model.cls_embedding.weight, table.expand(2, -1))


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_need_no_option(size, tmp_path):
    config = DnDConfig(**SIZES[size])
    if size == "XXL-64":  # of which no generator was published, and so no layers
        config = replace(config, depth=1, at=(63,))
    with torch.device("meta"):
        state = state_of(DnD(config))
    one = next(n for n in state if n == "output.0.weight")
    state |= {n: torch.arange(float(i)) for i, n in enumerate(state) if n.startswith("output.")}
    checkpoint = Checkpoint(tmp_path / "m.pt", state, {})
    at = (63,) if size == "XXL-64" else ()
    assert one in state and gpt_sizes(checkpoint, config.grid, at=at) == config


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), r"give --at the \d of its \d layers behind which it does, got none"),
        (("--at", "0,1"), "give --at"),
        (("--at", "first"), "--at must be layers such as 39,47, got 'first'"),
        (("--at", AT), "no published model has .* layers of width 32; give --heads"),
    ],
)
def test_what_nothing_says_is_asked_for(more, said, tokenizer, tmp_path, capsys):
    file = write({"model": state_of(build(DnD, MODEL))}, tmp_path / "m.pt")
    given = ("--tokenizer", tokenizer, "--model", file, "--out", tmp_path / "p", *more)
    line = refused(capsys, "convert", "dnd", *given)
    assert re.search(said, line), line


def test_codes_of_another_tokenizer_are_refused(tokenizer, tmp_path, capsys):
    other = build(DnD, replace(MODEL, vocab=CODES.vocab + 1))
    file = write({"model": state_of(other)}, tmp_path / "m.pt")
    given = ("--tokenizer", tokenizer, "--model", file, "--out", tmp_path / "p")
    line = refused(capsys, "convert", "dnd", *given, "--heads", 2, "--at", AT)
    assert f"draws {CODES.depth} codes out of {CODES.vocab + 1} at each position" in line
