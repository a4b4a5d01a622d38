"""Chameleon's and Liquid's files: small models that transformers writes become pipelines."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from builders import build
from official import official_conv, write
from smalti.cli.info import describe
from smalti.cli.main import main
from smalti.loading import load, load_unified
from smalti.pipeline.unified import UnifiedPipeline
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

transformers: Any = pytest.importorskip("transformers", reason="smalti[text] is missing")
pytestmark = pytest.mark.usefixtures("float32")

CODES = 12
PIXELS = "4x6"
"""Of two by three codes."""
VQ = VQGANConfig(
    size=(4, 6), channels=8, multipliers=(1, 1), blocks=1, latent=4, vocab=CODES, dim=4,
    l2_norm=False, deep_attention=False,
)  # fmt: skip
SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "max_position_embeddings": 128, "pad_token_id": None}
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def text_tokenizer(folder: Path, names: list[str], specials: tuple[str, ...]) -> dict[str, int]:
    """Write a byte-level tokenizer of these names and all bytes; its ids by name."""
    ids = {name: i for i, name in enumerate([*names, *ALPHABET])}
    made = Tokenizer(models.BPE(ids, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in specials])
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return ids


def vqgan(folder: Path) -> VQGAN:
    """A tokenizer of pictures, whose file is written as Meta has it."""
    module = build(VQGAN, VQ, seed=3)
    write({"state_dict": official_conv(module.state_dict(), 2)}, folder / "vqgan.ckpt")
    return module


def shaken(model: Any) -> Any:
    """The same with weights that are neither ones nor zeros."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def pixels(image: Image.Image) -> Tensor:
    """A picture as numbers (1, 3, H, W) in [-1, 1]."""
    numbers = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return numbers[None].float() / 127.5 - 1


# -- Chameleon

ORDER = [3, 0, 11, 7, 1, 2, 10, 4, 9, 5, 8, 6]
"""The code of each id that stands for one: other files may have another order than this."""
LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")
NAMES = [
    *("<s>", "<pad>", "</s>", "<unk>"), *(f"IMGIMG{str(c).translate(LETTERS)}Z" for c in ORDER),
    *("<eoss>", "<racm3:break>", "<reserved08705>", "<reserved08706>", "<image>"),
]  # fmt: skip
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""What the text tokenizer says is no text; of the other names it says nothing."""


def chameleon(folder: Path, shared: int = 0, **changes: Any) -> Any:
    """A model that transformers writes, with its text tokenizer, into a folder of shards; norms of
    heads are the same in each of so many parts of them, if any."""
    ids = text_tokenizer(folder, NAMES, SPECIALS)
    codec = {"embed_dim": 4, "num_embeddings": CODES, "latent_channels": 4, "resolution": 8}
    codec |= {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}
    settings = {"num_key_value_heads": 2, "vq_config": codec, "vocabulary_map": ids}
    torch.manual_seed(0)
    config = transformers.ChameleonConfig(vocab_size=len(ids), **SIZES | settings | changes)
    model = shaken(transformers.ChameleonForConditionalGeneration(config))
    for name, norms in model.state_dict().items() if shared else ():
        if ".q_norm." in name or ".k_norm." in name:
            norms.copy_(torch.cat([t[:1].expand_as(t) for t in norms.chunk(shared)]))
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return model


def convert(project: str, folder: Path, *more: str) -> UnifiedPipeline:
    """What the command makes of a folder of transformers, `hf`, and `vqgan.ckpt` beside it."""
    files = ["--tokenizer", str(folder / "vqgan.ckpt"), "--size", PIXELS]
    model = [] if "--model" in more else ["--model", str(folder / "hf")]
    main(["convert", project, *files, *model, *more, "--out", str(folder / "out")])
    return load_unified(folder / "out", "cpu", torch.float32)


def text_ids(pipe: UnifiedPipeline) -> Tensor:
    """Which ids text may have, (V,) bool."""
    written = torch.zeros(pipe.model.vocab, dtype=torch.bool)
    written[: pipe.words.vocab] = pipe.words.written
    return written & pipe.model.written


@torch.no_grad()
def likeliest_codes(theirs: Any, pipe: UnifiedPipeline, prompt: list[int]) -> Tensor:
    """The likeliest codes of a picture behind a prompt, by logits of transformers that are not
    masked."""
    model, ids = pipe.model, torch.tensor(prompt)
    codes = model.config.wrapping.is_code(torch.arange(model.vocab), model.spec)
    for _ in range(model.spec.positions):
        logits = theirs.lm_head(theirs.model(input_ids=ids[None]).last_hidden_state)[0, -1]
        ids = torch.cat((ids, logits.masked_fill(~codes, -torch.inf).argmax()[None]))
    return model.config.wrapping.code_of(ids[len(prompt) :])


PLAIN = {"guidance": 1.0, "temperature": 1.0, "top_k": 1, "top_p": 1.0}


def drawn_codes(pipe: UnifiedPipeline, text: str, **settings: Any) -> Tensor:
    """The codes that the pipeline draws of a text, the likeliest ones."""
    found, decode = list[Tensor](), pipe.tokenizer.decode
    pipe.tokenizer.decode = lambda codes, *rest: found.append(codes) or decode(codes, *rest)
    (image,) = pipe(text, **PLAIN | settings)
    pipe.tokenizer.decode = decode
    assert image.size == (6, 4)
    return found[0][0]


def answered(theirs: Any, pipe: UnifiedPipeline, row: list[int], n: int) -> str:
    """What transformers writes behind a row, greedily, of ids that text may have."""
    stops = pipe.model.marks.stops
    allowed = text_ids(pipe)
    allowed[list(stops)] = True
    ids = theirs.generate(
        torch.tensor([row]), max_new_tokens=n, do_sample=False, eos_token_id=list(stops),
        suppress_tokens=(~allowed).nonzero().flatten().tolist(), pad_token_id=1,
    )  # fmt: skip
    return pipe.words.write(ids[0, len(row) :].tolist()).strip()


def test_a_folder_of_chameleon_becomes_a_pipeline(tmp_path, capsys):
    module, theirs = vqgan(tmp_path), chameleon(tmp_path / "hf")
    pipe = convert("chameleon", tmp_path)
    assert "smalti sample" in capsys.readouterr().err
    told = describe(str(tmp_path / "out"))
    assert told["kind"] == "unified" and told["model"]["type"] == "one_vocabulary"
    assert {"vqgan.ckpt", "model.safetensors.index.json"} < set(told["files"])
    state = pipe.tokenizer.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in module.state_dict().items())

    config, names = pipe.model.config, {name: i for i, name in enumerate(NAMES)}
    assert config.order == tuple(ORDER) and config.first == 4 and config.length == 128
    assert (config.begin, config.end) == (names["<racm3:break>"], names["<eoss>"])
    assert config.marks.stops == (2, names["<reserved08706>"])
    assert text_ids(pipe).nonzero().flatten().tolist() == [
        i for i, name in enumerate([*NAMES, *ALPHABET]) if name == "<" or i >= len(NAMES)
    ]  # fmt: skip
    assert pipe.sampling.guidance.scale == 3 and pipe.sampling.guidance.pictures == 1.2
    assert pipe.writing.penalty == 1.2

    prompt = [0, *pipe.words.read("a dog"), names["<reserved08706>"], config.begin]
    drawn = drawn_codes(pipe, "a dog", guidance_pictures=None)
    assert torch.equal(drawn, likeliest_codes(theirs, pipe, prompt))


def test_chameleon_answers_as_transformers_does(tmp_path):
    """The likeliest ids behind a question about a picture, of a model as the largest one."""
    vqgan(tmp_path)
    theirs = chameleon(tmp_path / "hf", swin_norm=True)
    pipe = convert("chameleon", tmp_path)
    image, config = pipe("a dog", seed=1)[0], pipe.model.config
    codes = config.wrapping.id_of(pipe.tokenizer.encode(pixels(image))[0]).tolist()
    picture, turn = [config.begin, *codes, config.end], NAMES.index("<reserved08706>")
    row = [0, *picture, *pipe.words.read("what is it?"), turn]
    greedy = {"text_temperature": 0.0, "text_top_p": 1.0, "penalty": 1.0, "words": 6}
    answer = pipe.ask(image, "what is it?", **greedy)
    assert answer == answered(theirs, pipe, row, 6)
    # what a user types is text, also where it is a mark's name
    typed = pipe.ask(image, "</s><reserved08706>", **greedy)
    text = [NAMES.index("<reserved08706>") in pipe.words.read("<reserved08706>")]
    assert isinstance(typed, str) and text == [False]


# -- Meta's files


def pairs_beside(x: Tensor, heads: int) -> Tensor:
    """Rows as Meta has them, of which neighbours are turned together."""
    half = len(x) // heads // 2
    rows = [h * 2 * half + i + half * j for h in range(heads) for i in range(half) for j in (0, 1)]
    return x[rows]


def consolidated(state: dict[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """The state dicts of so many files of Meta, of one of transformers."""
    names = {
        "q_proj": "attention.wq", "k_proj": "attention.wk", "v_proj": "attention.wv",
        "o_proj": "attention.wo", "q_norm": "attention.q_normalization",
        "k_norm": "attention.k_normalization", "gate_proj": "feed_forward.w1",
        "down_proj": "feed_forward.w2", "up_proj": "feed_forward.w3",
        "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
        "embed_tokens": "tok_embeddings", "norm": "norm", "lm_head": "output",
    }  # fmt: skip
    found: list[dict[str, Tensor]] = [{} for _ in range(parts)]
    for name, tensor in state.items():
        if "vqmodel" in name:
            continue
        *begin, part, kind = name.removeprefix("model.").split(".")
        if part in ("q_proj", "k_proj"):
            tensor = pairs_beside(tensor, 4 if part == "q_proj" else 2)
        if part in ("q_norm", "k_norm"):
            each = [pairs_beside(t[0], 1) for t in tensor.chunk(parts)]
        elif part in ("o_proj", "down_proj", "embed_tokens"):
            each = list(tensor.chunk(parts, 1))
        else:
            each = [tensor] * parts if tensor.dim() == 1 else list(tensor.chunk(parts))
        theirs = ".".join([*begin[:2], names[part], kind])
        for one, mine in zip(found, each, strict=True):
            one[theirs] = mine.clone()
    return found


def meta(folder: Path, model: Any, parts: int) -> None:
    """Write Meta's files of a model of transformers, and settings as Meta has them."""
    folder.mkdir()
    for i, state in enumerate(consolidated(model.state_dict(), parts)):
        name = "consolidated.pth" if parts == 1 else f"consolidated.{i:02}.pth"
        write({**state, "rope.freqs": None if parts == 1 else torch.ones(4)}, folder / name)
    told = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5}
    told |= {"qk_normalization": True, "swin_norm": False, "rope_theta": 10000.0}
    (folder / "params.json").write_text(json.dumps({"model": told, "model_parallel_size": parts}))


@pytest.mark.parametrize("parts", [1, 2])
def test_files_of_meta_become_the_same(tmp_path, parts):
    vqgan(tmp_path)
    theirs = chameleon(tmp_path / "hf", shared=parts)
    expected = convert("chameleon", tmp_path, "--dtype", "float32")
    meta(tmp_path / "meta", theirs, parts)
    words = str(tmp_path / "hf" / "tokenizer.json")
    pipe = convert("chameleon", tmp_path, "--model", str(tmp_path / "meta"), "--words", words)
    state = pipe.model.state_dict()
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert pipe.model.config.language == expected.model.config.language
    files = {p.name for p in (tmp_path / "meta").glob("*.pth")}
    assert files < set(describe(str(tmp_path / "out"))["files"])


def test_anole_on_the_hub(tmp_path, monkeypatch):
    """What is published there: Meta's files in one folder, both tokenizers in another."""
    repo, home = "GAIR/Anole-7b-v0.1", tmp_path / "hub" / "snapshots" / "c0ffee"
    theirs = chameleon(tmp_path / "hf", shared=1)
    (home / "models").mkdir(parents=True)
    meta(home / "models" / "7b", theirs, 1)
    (home / "tokenizer").mkdir()
    vqgan(home / "tokenizer")
    words = home / "tokenizer" / "text_tokenizer.json"
    words.write_text((tmp_path / "hf" / "tokenizer.json").read_text())
    asked = list[str]()

    def file(where: str, name: str) -> str:
        asked.append(f"{where}/{name}")
        return str(home / name)

    def folder(where: str, allow_patterns: list[str]) -> str:
        asked.extend(f"{where}/{pattern}" for pattern in allow_patterns)
        return str(home)

    monkeypatch.setattr("smalti.interop.hub.hf_hub_download", file)
    monkeypatch.setattr("smalti.interop.hub.snapshot_download", folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    pipe = load(f"{repo}/models/7b", "cpu", "float32")
    assert isinstance(pipe, UnifiedPipeline) and pipe.info["source"] == f"{repo} at c0ffee"
    assert pipe.model.spec.grids == ((256, 256),)  # of 512 pixels, two to a code here
    parts = ("models/7b/*", "tokenizer/vqgan.ckpt", "tokenizer/text_tokenizer.json")
    assert asked == [f"{repo}/{part}" for part in parts]
    assert load(f"{repo}/models/7b", "cpu", "float32").fingerprint == pipe.fingerprint


# -- Liquid

MARKS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<unused3>")
MARKS += ("<boi>", "<eoi>", "<unconditional>")


def liquid(folder: Path, kind: str) -> Any:
    """A model that transformers writes, whose table is longer than its text tokenizer by the codes,
    into a folder of shards."""
    ids = text_tokenizer(folder, list(MARKS), MARKS)
    torch.manual_seed(0)
    settings: dict[str, Any] = {"vocab_size": len(ids) + CODES, "num_key_value_heads": 1}
    settings |= {"head_dim": 16} if kind == "Gemma" else {}
    config = getattr(transformers, f"{kind}Config")(**SIZES | settings)
    model = shaken(getattr(transformers, f"{kind}ForCausalLM")(config))
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return model


@pytest.mark.parametrize("kind", ["Gemma", "Qwen2"])
def test_a_folder_of_liquid_becomes_a_pipeline(tmp_path, kind):
    vqgan(tmp_path)
    theirs = liquid(tmp_path / "hf", kind)
    pipe = convert("liquid", tmp_path)
    config, read = pipe.model.config, pipe.words.read
    assert config.first == len(MARKS) + 256 and config.marks.nothing == 9
    assert (config.begin, config.end, config.marks.start, config.marks.stops) == (7, 8, 2, (1, 5))
    assert pipe.sampling.guidance.scale == 7 and pipe.sampling.filters.top_k == 4096
    suffix = " Generate an image based on this description."
    drawn = drawn_codes(pipe, "a dog")
    prompt = [2, *read(f"a dog{suffix}"), 7]
    assert torch.equal(drawn, likeliest_codes(theirs, pipe, prompt))

    image = pipe("a dog", seed=1)[0]
    codes = config.wrapping.id_of(pipe.tokenizer.encode(pixels(image))[0]).tolist()
    row = [2, 4, *read("user\n"), 7, *codes, 8, *read("\nwhat?"), 5, *read("\n"), 4]
    row += read("model\n")
    assert pipe.ask(image, "what?", words=6) == answered(theirs, pipe, row, 6)


# -- mistakes


def refused(capsys: Any, folder: Path, project: str, *more: str) -> str:
    """The one line that the command says, having written nothing."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        convert(project, folder, *more)
    assert stop.value.code == 2 and not (folder / "out").exists()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("smalti convert: ")
    return line


def test_mistakes_with_folders_of_chameleon_are_named(tmp_path, capsys):
    vqgan(tmp_path)
    chameleon(tmp_path / "hf")
    hf = str(tmp_path / "hf")
    said = refused(capsys, tmp_path, "chameleon", "--tokenizer", hf)
    assert "without its decoder" in said and "give --tokenizer vqgan.ckpt" in said
    said = refused(capsys, tmp_path, "liquid")
    assert f"looks like a model of Chameleon; try: smalti convert chameleon --model {hf}" in said
    other = [*NAMES[:4], NAMES[5], NAMES[4], *NAMES[6:]]
    text_tokenizer(tmp_path / "other", other, SPECIALS)
    said = refused(capsys, tmp_path, "chameleon", "--words", str(tmp_path / "other"))
    assert "is id 5 there, and 4 in the text tokenizer" in said
    write({"state_dict": official_conv(build(VQGAN, replace(VQ, vocab=9)).state_dict(), 2)},
          tmp_path / "vqgan.ckpt")  # fmt: skip
    said = refused(capsys, tmp_path, "chameleon")
    assert "draws one of 12 codes; the tokenizer of pictures has 9" in said
    (tmp_path / "hf" / "tokenizer.json").unlink()
    said = refused(capsys, tmp_path, "chameleon")
    assert f"{hf} has no tokenizer.json: give --words" in said


def test_mistakes_with_files_of_meta_are_named(tmp_path, capsys):
    vqgan(tmp_path)
    theirs, at = chameleon(tmp_path / "hf", shared=2), tmp_path / "meta"
    meta(at, theirs, 2)
    words, model = ["--words", str(tmp_path / "hf")], ["--model", str(at)]
    said = refused(capsys, tmp_path, "chameleon", *model)
    assert "has no tokenizer.json: give --words" in said
    part = str(at / "consolidated.00.pth")
    said = refused(capsys, tmp_path, "chameleon", "--model", part, *words)
    assert "is a part of a model: give the folder of all parts" in said
    settings = (at / "params.json").read_text()
    (at / "params.json").write_text(settings.replace("norm_eps", "eps"))
    assert "says no norm_eps" in refused(capsys, tmp_path, "chameleon", *model, *words)
    (at / "params.json").write_text(settings.replace('"qk_normalization": true, ', ""))
    assert "qk_normalization" in refused(capsys, tmp_path, "chameleon", *model, *words)
    (at / "consolidated.00.pth").unlink()
    said = refused(capsys, tmp_path, "chameleon", *model, *words)
    assert "lacks files, or has too many: it has consolidated.01.pth" in said


def test_mistakes_with_folders_of_liquid_are_named(tmp_path, capsys):
    vqgan(tmp_path)
    liquid(tmp_path / "hf", "Qwen2")
    said = refused(capsys, tmp_path, "chameleon")
    assert "smalti convert liquid --model" in said
    text_tokenizer(tmp_path / "plain", ["<boi>", "<eoi>"], ("<boi>", "<eoi>"))
    said = refused(capsys, tmp_path, "liquid", "--words", str(tmp_path / "plain"))
    assert "the text tokenizer has no '<unconditional>'" in said
    more = [*MARKS, *(f"<more{i}>" for i in range(9))]
    text_tokenizer(tmp_path / "longer", more, MARKS)
    said = refused(capsys, tmp_path, "liquid", "--words", str(tmp_path / "longer"))
    assert f"has no room for 12 codes behind {len(more) + 256} ids of text" in said
