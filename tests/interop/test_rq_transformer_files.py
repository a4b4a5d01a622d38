"""Files of RQ-Transformer: every option of their config.yaml, a tar of both parts, refusals."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from test_rq_files import published, refused
from torch import Tensor

import smalti
from builders import build, random_codes, random_cond
from official import write
from smalti.cli.main import main
from smalti.interop.projects.rq import transformer_sizes, transformer_state
from smalti.models.rq_transformer import RQTransformer, RQTransformerConfig, tiny
from smalti.tokenizers import rq_vae
from smalti.tokenizers.rq_vae import RQVAE

OWN = {"body_vectors": False, "head_vectors": False, "sums": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "tables": {"vocabs": (32, 20, 9), "shared_embedding": False, "shared_classifier": False} | OWN,
    "one table": OWN,
    "classifiers": {"shared_classifier": False, "sums": False, "gelu": "sigmoid"},
    "body": {"head_vectors": False, "sums": False, "shared_vectors": False},
    "head": {"body_vectors": False, "shared_vectors": False, "shared_embedding": False},
    "heads": {"head_heads": 4},
    "as wide": {"code_dim": 32, "projected": True},
    "text": {"classes": 0, "text_length": 4, "text_vocab": 11, "text_weight": 0.1, "text_dim": 1},
}


def model_of(changes: dict[str, Any]) -> RQTransformer:
    return build(RQTransformer, replace(tiny(), embedding_dropout=0.1, **changes))


def vectors_of(model: RQTransformer) -> Tensor:
    books = (m for n, m in model.named_buffers() if n.endswith("vectors"))
    return next(books, torch.zeros(1))


def official(model: RQTransformer) -> dict[str, Tensor]:
    """Official tensors, as `rqvae/models/rqtransformer` names them."""
    found, parts = dict[str, Tensor](), dict[str, list[Tensor]]()
    for name, tensor in model.state_dict().items():
        stack, _, rest = name.removeprefix("head.").partition("layers.")
        if not stack and rest:
            kind = "head" if name.startswith("head.") else "body"
            index, _, rest = rest.partition(".")
            for ours, theirs in (("attention_norm", "ln1"), ("ffn_norm", "ln2"),
                                 ("wo", "attn.proj"), ("feed_forward.w1", "mlp.0"),
                                 ("feed_forward.w2", "mlp.2")):  # fmt: skip
                rest = rest.replace(ours, theirs)
            block, last = f"{kind}_transformer.blocks.{index}.", rest.rpartition(".")[2]
            if rest.startswith("wqkv"):
                for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    found[f"{block}attn.{part}.{last}"] = rows
            else:
                found[block + rest] = tensor
        elif name.startswith("head.parts."):
            parts.setdefault(name.rpartition(".")[2], []).append(tensor)
        elif not name.endswith("vectors") and name != "null":
            found[renamed(name)] = tensor[None] if name.endswith("positions") else tensor
    for kind, tensors in parts.items():
        found[f"classifier.linear.{kind}"] = stacked(tensors, model.config)
    if model.config.classes:
        found["cond_emb.weight"] = found["cond_emb.weight"][:-1]
    return found


def stacked(tensors: list[Tensor], config: RQTransformerConfig) -> Tensor:
    """One classifier as it is; those of each depth transposed, padded to the most codes."""
    if config.shared_classifier:
        return tensors[0]
    rows = [torch.cat((t, t.new_ones(config.vocab - len(t), *t.shape[1:]))) for t in tensors]
    return torch.stack([row.T if row.dim() == 2 else row for row in rows])


def renamed(name: str) -> str:
    for ours, theirs in (
        ("cls_embedding.", "cond_emb."),
        ("text_norm.", "cond_classifier.layer_norm."),
        ("text_classifier.", "cond_classifier.linear."),
        ("text.weight", "cond_emb.weight"),
        ("head.norm.", "classifier.layer_norm."),
        ("head.read.", "head_mlp."),
        ("code_mlp.", "input_mlp."),
        ("head.positions", "pos_emb_d"),
        ("prefix_positions", "pos_emb_cond"),
        ("positions", "pos_emb_hw"),
        ("head.seen.weight", "tok_emb.weight"),
        ("book.weight", "tok_emb.weight"),
    ):
        if name.startswith(ours):
            return name.replace(ours, theirs)
    raise AssertionError(name)


def record(config: RQTransformerConfig) -> dict[str, Any]:
    """What a config.yaml says of a model, its number of codes with the data."""
    block = {"n_head": config.heads, "resid_pdrop": config.dropout}
    block |= {"gelu": "v2"} if config.gelu == "sigmoid" else {}
    over_depth = block | {"n_head": config.over_depth.heads}
    return {
        "dataset": {"type": "imagenet", "vocab_size": list(config.sizes)},
        "arch": {
            "type": "rq-transformer",
            "block_size": [*config.grid, config.depth],
            "embed_dim": config.dim,
            "input_embed_dim": config.code_dim,
            "shared_tok_emb": config.shared_embedding,
            "shared_cls_emb": config.shared_classifier,
            "input_emb_vqvae": config.body_vectors,
            "head_emb_vqvae": config.head_vectors,
            "cumsum_depth_ctx": config.sums,
            "vocab_size_cond": config.classes or config.text_vocab,
            "block_size_cond": config.prefix,
            "embd_pdrop": config.embedding_dropout,
            "body": {"n_layer": config.layers, "block": block},
            "head": {"n_layer": config.head_layers, "block": over_depth},
        },
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option(name):
    model = model_of(VARIANTS[name])
    told = record(model.config)
    config = transformer_sizes({**told["arch"], "vocab_size": told["dataset"]["vocab_size"]})
    config = replace(config, shared_vectors=model.config.shared_vectors)
    assert config == model.config
    converted = RQTransformer(config).eval()
    converted.load_state_dict(transformer_state(official(model), vectors_of(model), config))
    codes = torch.minimum(random_codes(model.spec, 2), torch.tensor(config.sizes) - 1)
    cond = replace(random_cond(model, 2), drop=None)
    if config.text_vocab:
        cond = replace(cond, text=torch.arange(8).view(2, 4, 1).float())
    assert torch.equal(converted.loss(codes, cond), model.loss(codes, cond))


def test_layers_without_biases_have_zeros():
    model = model_of({})
    state, ours = official(model), model.config
    products = [n for n in state if "_transformer.blocks." in n and n.endswith("bias")
                and (".attn." in n or ".mlp." in n)]  # fmt: skip
    assert len(products) == 6 * (model.config.layers + model.config.head_layers)
    zeroed = state | {n: torch.zeros_like(state[n]) for n in products}
    bare = {n: t for n, t in state.items() if n not in products}
    found = transformer_state(bare, vectors_of(model), ours)
    wanted = transformer_state(zeroed, vectors_of(model), ours)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], wanted[n]) for n in found)


@pytest.fixture(scope="module")
def tar(tmp_path_factory) -> Callable[..., Path]:
    """A tar of a tokenizer and a generator, of whose config.yaml some settings are others."""

    def packed(**changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("files")
        published(build(RQVAE, rq_vae.tiny()), folder / "imagenet" / "stage1")
        stage = folder / "imagenet" / "stage2"
        stage.mkdir()
        model = model_of({})
        told = record(model.config)
        told["arch"] |= changes
        (stage / "config.yaml").write_text(yaml.safe_dump(told))
        write({"state_dict": official(model)}, stage / "model.pt")
        with tarfile.open(folder / "imagenet.tar.gz", "w:gz") as out:
            out.add(folder / "imagenet", "imagenet")
        return folder / "imagenet.tar.gz"

    return packed


@pytest.fixture(scope="module")
def pipeline(tar, tmp_path_factory) -> Path:
    """The folder that the command makes of a tar."""
    path, out = str(tar()), tmp_path_factory.mktemp("converted") / "p"
    main(["convert", "rq", "--tokenizer", path, "--model", path, "--out", str(out)])
    return out


def test_a_tar_becomes_a_pipeline(pipeline):
    model = model_of({})
    pipe = smalti.load(pipeline, "cpu", torch.float32)
    assert pipe.sampling.filters.top_p == 0.92 and pipe.sampling.guidance.scale == 1.0
    vectors = pipe.tokenizer.quantize.embedding.weight
    assert torch.equal(pipe.model.head.seen.vectors, vectors)
    model.head.seen.vectors.copy_(vectors)
    codes, cond = random_codes(model.spec, 2), replace(random_cond(model, 2), drop=None)
    torch.testing.assert_close(pipe.model.loss(codes, cond), model.loss(codes, cond))
    assert pipe(classes=[1], n=1, top_k=(5, 3, 1), guidance=2.0)[0].size == (16, 16)


def test_filters_of_each_depth_by_the_command(pipeline, tmp_path, capsys):
    out = tmp_path / "x.png"
    words = ["sample", str(pipeline), "--n", "2", "--out", str(out)]
    main([*words, "--top-k", "5,3,1", "--temperature", "0.9"])
    pipe, images = smalti.load(pipeline, "cpu", torch.float32), []
    for filters in ({"top_k": (5, 3, 1), "temperature": 0.9}, {}):
        images.append(pipe(n=2, **filters))
    with Image.open(out) as sheet:
        tags = json.loads(sheet.text["smalti"])["images"]
    assert tags[0]["top_k"] == [5, 3, 1] and tags[0]["temperature"] == 0.9
    assert images[0][0].info["smalti"]["top_k"] == [5, 3, 1]
    assert images[0][0].tobytes() != images[1][0].tobytes()
    pipe.sampling = pipe.sampling.changed(top_k=(5, 3, 1), temperature=0.9)
    pipe.save_pretrained(tmp_path / "kept")
    kept = smalti.load(tmp_path / "kept", "cpu", torch.float32)
    assert kept.sampling == pipe.sampling and kept(n=1)[0].tobytes() == images[0][0].tobytes()
    capsys.readouterr()
    for given, wrong in (("9,4", "one for each of the 3 codes of a position, got 9,4"),
                         ("9,x,4", "--top-k must be an integer, or several with commas"),
                         ("9,4,-1", "top_k must be 0 (off) or more, got -1")):  # fmt: skip
        again = [*words[:-1], str(tmp_path / "y.png"), "--top-k", given]
        assert wrong in refused(capsys, *again)
    assert not (tmp_path / "y.png").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"block_size": [4, 4, 2]},
            "draws 2 codes out of 32 at each position; the tokenizer has 3",
        ),
        ({"input_embed_dim": 7}, "reads code vectors of 7 numbers; the tokenizer's have 4"),
        ({"use_padding_emb": True}, "use_padding_emb and scaled_head_emb_vqvae must be off"),
        ({"body": {"n_layer": 2}}, "are not those of an RQ-Transformer (KeyError: 'n_head')"),
        ({"body": {"n_layer": 2, "block": {"n_head": 2, "gelu": "v3"}}}, "gelu v1 or v2"),
    ],
)
def test_settings_that_do_not_fit(tar, tmp_path, capsys, changes, words):
    if "block_size" in changes:
        changes |= {"vocab_size": 32}
    path = tar(**changes)
    arguments = ("--tokenizer", path, "--model", path, "--out", tmp_path / "p")
    assert words in refused(capsys, "convert", "rq", *arguments)
