"""The released folders of VILA-U and UniTok: small ones, whose language models and towers are those
of transformers, become pipelines that read and draw the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_unitok_files import official as official_unitok
from torch import Tensor, nn
from torch.nn import functional as F

from builders import build
from official import official_conv, write
from smalti.cli.main import main
from smalti.heads.depth import DepthHead
from smalti.loading import load_unified
from smalti.models import depth_language
from smalti.models.depth_language import DepthLanguage
from smalti.models.language import tiny as tiny_language
from smalti.modules import TOKENIZERS, load_module
from smalti.pipeline.unified import UnifiedPipeline
from smalti.tokenizers import unitok, vila_u
from smalti.tokenizers.vila_u import VILAU
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

transformers: Any = pytest.importorskip("transformers", reason="smalti[text] is missing")
pytestmark = pytest.mark.usefixtures("float32")

NAMES = ("<s>", "</s>", "<pad>", "<im_start>", "<im_end>", "<vi_start>", "<vi_end>")
BYTES = ("<s>", "</s>", "<pad>", "<0x00>", "<0x01>")
WIDE = 24
LLAMA = {"hidden_size": WIDE, "intermediate_size": 40, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 2, "max_position_embeddings": 2048, "pad_token_id": None}
DEPTH, CODES = 3, 32
PLAIN = {"guidance": 1.0, "temperature": 1.0, "top_k": 1, "top_p": 1.0}


def words(folder: Path, names: tuple[str, ...]) -> int:
    """Write a byte-level text tokenizer of these marks; how many ids it has."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({n: i for i, n in enumerate([*names, *alphabet])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in names])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return made.get_vocab_size()


def shaken(module: Any) -> Any:
    """The same with weights that are neither ones nor zeros."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def llama(vocab: int) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=vocab, tie_word_embeddings=False, **LLAMA)
    return shaken(transformers.LlamaForCausalLM(config))


def drawn(pipe: UnifiedPipeline, text: str) -> Tensor:
    """The likeliest codes (N, G) of a text."""
    found, decode = list[Tensor](), pipe.tokenizer.decode
    pipe.tokenizer.decode = lambda codes, *rest: found.append(codes) or decode(codes, *rest)  # type: ignore
    pipe(text, **PLAIN)
    pipe.tokenizer.decode = decode
    return found[0][0]


def convert(project: str, tokenizer: Path, model: Path, *more: str) -> UnifiedPipeline:
    files = ["--tokenizer", str(tokenizer), "--model", str(model)]
    out = model.parent / "out"
    main(["convert", project, *files, "--heads", "2", *more, "--out", str(out)])
    return load_unified(out, "cpu", torch.float32)


def prompt(pipe: UnifiedPipeline, text: str) -> list[int]:
    """The ids of a text that a picture follows."""
    put = pipe.phrases.draw.format(text)
    return [pipe.words.id("<s>"), *pipe.words.read(put), pipe.model.config.begin]


@torch.no_grad()
def likeliest(theirs: Any, ids: list[int], stack: Any, read: Any, count: int) -> Tensor:
    """Stacks (N, G) drawn one after another: `stack` draws one of a state, `read` says how all so
    far are read."""
    x, found = theirs.model.embed_tokens(torch.tensor([ids])), list[Tensor]()
    for _ in range(count):
        row = torch.cat((x, read(torch.stack(found))[None]), 1) if found else x
        h = theirs.model(inputs_embeds=row).last_hidden_state[0, -1]
        found.append(stack(h))
    return torch.stack(found)


# -- VILA-U

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
SETTINGS = {
    "rqvaesiglip": {
        "n_embed": CODES, "code_shape": [4, 4, DEPTH], "shared_codebook": True,
        "ddconfig": {"ch": 8, "ch_mult": [1, 2, 2], "num_res_blocks": 1, "z_channels": 16,
                     "double_z": False},
    },
    "rqtransformer": {"head": {"n_layer": 2, "block": {"n_head": 2}}},
}  # fmt: skip


def siglip() -> Any:
    torch.manual_seed(1)
    sizes = {"num_hidden_layers": 3, "image_size": 16, "patch_size": 4}
    text = {"num_hidden_layers": 1, "vocab_size": 9, "projection_size": 16}
    config = transformers.SiglipConfig(text_config=TOWER | text, vision_config=TOWER | sizes)
    return shaken(transformers.SiglipModel(config))


def official_head(head: DepthHead) -> dict[str, Tensor]:
    """VILA-U's names of a head."""
    names = {
        "attention_norm": "ln1", "ffn_norm": "ln2", "wo": "attn.proj", "feed_forward.w1": "mlp.0",
        "feed_forward.w2": "mlp.2", "norm": "classifier_mlp.layer_norm",
        "parts.0.proj": "classifier_mlp.linear", "read": "in_mlp_1", "into": "in_mlp_2",
    }  # fmt: skip
    found = dict[str, Tensor]()
    for name, tensor in head.state_dict().items():
        part, _, kind = name.rpartition(".")
        begin = ""
        if part.startswith("layers."):
            _, layer, part = part.split(".", 2)
            begin = f"head_transformer.blocks.{layer}."
        if name == "positions":
            found["pos_emb_d"] = tensor[None]
        elif part == "wqkv":
            for one, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"{begin}attn.{one}.{kind}"] = rows.clone()
        elif part != "seen":
            found[f"{begin}{names[part]}.{kind}"] = tensor
    return found


def released(folder: Path, settings: dict[str, Any] = SETTINGS) -> tuple[Any, Any, DepthLanguage]:
    """Write the folder of a model: its SigLIP and its language model, and ours of the rest."""
    theirs, tower = llama(words(folder / "llm", NAMES)), siglip()
    theirs.save_pretrained(folder / "llm", max_shard_size="60KB")
    codes = shaken(build(VILAU, replace(vila_u.tiny(), understands=True)))
    config = depth_language.tiny(
        language=tiny_language(dim=WIDE), grid=(4, 4), codes=CODES, code_dim=16,
        head=replace(depth_language.tiny().head, layers=2, projected=True),
    )  # fmt: skip
    model = shaken(build(DepthLanguage, config))
    conv = {n: t for n, t in codes.state_dict().items() if n.startswith(("decoder", "post_"))}
    state = official_conv(conv, 3)
    state |= {f"siglip_model.{n}": t for n, t in tower.state_dict().items()}
    table = F.pad(codes.quantize.embedding.weight.detach(), (0, 0, 0, 1))
    state |= {f"quantizer.codebooks.{d}.weight": table.clone() for d in range(DEPTH)}
    model.learn_from(codes.quantize)
    whole = {f"rqvaesiglip.{n}": t for n, t in state.items()}
    whole |= {f"rqtransformer.{n}": t for n, t in official_head(model.head).items()}
    for part in ("vision_tower", "mm_projector"):
        (folder / part).mkdir()
    into = {f"layers.{name}": tensor for name, tensor in model.into.state_dict().items()}
    kept = {n: t.contiguous() for n, t in whole.items() if "position_ids" not in n}
    save_file(kept, folder / "vision_tower" / "model.safetensors")
    save_file(into, folder / "mm_projector" / "model.safetensors")
    (folder / "vision_tower" / "config.json").write_text(json.dumps(settings))
    return theirs, tower, model


@torch.no_grad()
@pytest.mark.slow
def test_the_tower_of_vila_u_sees_as_transformers_does(tmp_path):
    _, tower, _ = released(tmp_path / "vila")
    words = ["--tokenizer", str(tmp_path / "vila"), "--heads", "2"]
    main(["convert", "vila-u", *words, "--out", str(tmp_path / "t")])
    found, _ = load_module(tmp_path / "t", TOKENIZERS, dtype=torch.float32)
    assert found.config == replace(vila_u.tiny(), understands=True)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    seen = tower.vision_model(images, output_hidden_states=True)
    z = found.latent(images)
    wanted = seen.hidden_states[-2].mT.unflatten(2, (4, 4))
    torch.testing.assert_close(z, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.features(z), seen.pooler_output, rtol=1e-4, atol=1e-5)


def test_a_folder_of_vila_u_becomes_a_pipeline(tmp_path):
    theirs, _, ours = released(tmp_path / "vila")
    pipe = convert("vila-u", tmp_path / "vila", tmp_path / "vila")
    config, model = pipe.model.config, pipe.model
    assert (config.begin, config.end) == (3, 4) and config.depth == DEPTH and config.shared
    assert config.nothing == tuple(pipe.words.read(pipe.phrases.draw.format("")))
    assert (pipe.sampling.guidance.scale, pipe.sampling.filters.top_k) == (3.0, 900)
    for name, tensor in ours.state_dict().items():
        if not name.startswith("language."):
            assert torch.equal(model.state_dict()[name], tensor), name
    mine = likeliest(
        theirs, prompt(pipe, "a dog"), stacked(model), lambda codes: model.into(model.book(codes)),
        model.spec.positions,
    )  # fmt: skip
    assert torch.equal(drawn(pipe, "a dog"), mine)
    (image,) = pipe("a dog", guidance=2.0)
    assert image.size == (16, 16) and isinstance(pipe.ask(image, "what?", words=3), str)


def stacked(model: DepthLanguage) -> Any:
    """The likeliest stack of a state, by logits of the whole stack so far, as upstream has them."""

    def stack(h: Tensor) -> Tensor:
        codes = torch.zeros(1, 1, model.config.depth, dtype=torch.int64)
        for d in range(model.config.depth):
            codes[..., d] = model.head.logits(h.view(1, 1, -1), codes)[d].argmax(-1)
        return codes[0, 0]

    return stack


# -- UniTok


class OverDepth(nn.Module):
    """The head over depth as UniTok has it: layers of transformers, a table for each code but the
    last, and one classifier."""

    def __init__(self) -> None:
        super().__init__()
        sizes = LLAMA | {"num_hidden_layers": 3, "vocab_size": 2}
        self.llama = transformers.LlamaModel(transformers.LlamaConfig(**sizes))
        self.codebooks = nn.ModuleList([nn.Embedding(CODES, WIDE) for _ in range(DEPTH - 1)])
        self.linear_head = nn.Linear(WIDE, CODES)

    def forward(self, h: Tensor, codes: Tensor) -> Tensor:
        """Logits (G, K) of each code given a state (D,) and the codes (G - 1,) before it."""
        rows = [h, *(table(code) for table, code in zip(self.codebooks, codes, strict=False))]
        x = self.llama(inputs_embeds=torch.stack(rows)[None]).last_hidden_state[0]
        return self.linear_head(x)

    def official(self) -> dict[str, Tensor]:
        state = {n.removeprefix("llama."): t for n, t in self.state_dict().items()}
        return {f"ar_head.{n}": t for n, t in state.items() if "embed_tokens" not in n}

    @torch.no_grad()
    def likeliest(self, h: Tensor) -> Tensor:
        codes = list[Tensor]()
        for _ in range(DEPTH):
            before = torch.stack(codes) if codes else torch.zeros(0).long()
            codes.append(self(h, before)[-1].argmax())
        return torch.stack(codes)


def released_unitok(folder: Path) -> tuple[Any, OverDepth, DepthLanguage]:
    """Write the folder of a language model, and the file of a tokenizer beside it."""
    theirs = llama(words(folder, BYTES))
    theirs.save_pretrained(folder, max_shard_size="60KB")
    torch.manual_seed(2)
    head = shaken(OverDepth())
    sizes = {"codes": CODES, "depth": DEPTH, "code_dim": 2, "width": 12, "heads": 2}
    model = shaken(build(DepthLanguage, depth_language.unitok(
        tiny_language(dim=WIDE), grid=(4, 4), begin=3, end=4, **sizes)))  # fmt: skip
    tables = torch.randn(DEPTH, CODES, 2)
    model.book.vectors.copy_(F.normalize(tables, dim=-1).flatten(0, 1))
    more = head.official()
    for begin, part in (("attn_projection", model.projection), ("mm_projector", model.into)):
        for name, tensor in part.state_dict().items():
            more[f"model.multi_embedder.{begin}.{name}"] = tensor
    more["model.multi_embedder.attn_projection.attn.zero_k_bias"] = torch.zeros(12)
    for k, rows in enumerate(tables):
        more[f"model.multi_embedder.quantizer.codebooks.{k}.codebook.weight"] = rows.clone()
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    save_file({n: t.contiguous() for n, t in more.items()}, folder / "more.safetensors")
    index["weight_map"] |= dict.fromkeys(more, "more.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    told = json.loads((folder / "config.json").read_text()) | {"model_type": "mini_gemini"}
    (folder / "config.json").write_text(json.dumps(told))
    codes = build(unitok.UniTok, replace(unitok.tiny(), vocab=CODES, depth=DEPTH, dim=6, width=12))
    held = {"trainer": {"unitok": official_unitok(codes)}, "args": {}}
    write(held, folder.parent / "unitok_tokenizer.pth")
    return theirs, head, model


@torch.no_grad()
def test_a_folder_of_unitok_becomes_a_pipeline(tmp_path):
    theirs, head, ours = released_unitok(tmp_path / "mllm")
    pipe = convert("unitok", tmp_path / "unitok_tokenizer.pth", tmp_path / "mllm", "--size", "32")
    model, config = pipe.model, pipe.model.config
    assert (config.begin, config.end, config.heads) == (3, 4, 2) and config.z_loss == 5e-5
    assert config.nothing == tuple(pipe.words.read("<unconditional>"))
    torch.testing.assert_close(model.book.vectors, ours.book.vectors)
    h, codes = torch.randn(WIDE), torch.randint(0, CODES, (DEPTH,))
    logits = torch.stack(model.head.logits(h.view(1, 1, -1), codes.view(1, 1, -1)))[:, 0, 0]
    torch.testing.assert_close(logits, head(h, codes[:-1]), rtol=1e-4, atol=1e-5)

    def read(codes: Tensor) -> Tensor:
        features = model.projection(model.book.each(codes[None]).flatten(-2))
        return model.into(features)[0]

    mine = likeliest(theirs, prompt(pipe, "a dog"), head.likeliest, read, model.spec.positions)
    assert torch.equal(drawn(pipe, "a dog"), mine)


# -- mistakes


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("rqvaesiglip", {"n_embed": [32, 16, 16]}, "depths must have one n_embed"),
        ("rqvaesiglip", {"decoder_latent_shape": [6, 6]}, "its code_shape says (4, 4)"),
        ("rqvaesiglip", {"code_shape": [4, 4, 2]}, "draws 3 codes out of 32"),
        ("rqtransformer", {"head": {}}, "n_head of the rqtransformer of VILA-U is missing"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, capsys, part, change, message):
    settings = SETTINGS | {part: SETTINGS[part] | change}
    released(tmp_path / "vila", settings)
    assert message in refused(capsys, "vila-u", tmp_path / "vila", tmp_path / "vila")


def test_files_of_others_are_named(tmp_path, capsys):
    released(tmp_path / "vila")
    released_unitok(tmp_path / "mllm")
    file = tmp_path / "unitok_tokenizer.pth"
    said = refused(capsys, "unitok", file, tmp_path / "vila" / "vision_tower")
    assert "looks like a tokenizer of VILA-U; try: smalti convert vila-u --tokenizer" in said
    said = refused(capsys, "vila-u", tmp_path / "mllm", tmp_path / "vila")
    assert "looks like a language model of UniTok" in said
    (tmp_path / "vila" / "mm_projector" / "model.safetensors").unlink()
    assert "mm_projector" in refused(capsys, "vila-u", tmp_path / "vila", tmp_path / "vila")


def refused(capsys, project: str, tokenizer: Path, model: Path) -> str:
    """The one line that a conversion ends with."""
    with pytest.raises(SystemExit) as stop:
        convert(project, tokenizer, model)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]
