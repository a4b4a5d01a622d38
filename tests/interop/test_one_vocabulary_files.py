"""Chameleon's and Liquid's files: small models that transformers writes become pipelines."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import build
from official import official_conv, write
from smalti.cli.info import describe
from smalti.cli.main import main
from smalti.engine import causal
from smalti.engine.step import Request
from smalti.interop.language import load_language
from smalti.loading import load_unified
from smalti.models.one_vocabulary import OneVocabulary
from smalti.pipeline.conversation import Turn
from smalti.pipeline.unified import Said, UnifiedPipeline
from smalti.sampling.filters import Filters
from smalti.sampling.noise import Noise
from smalti.codes import Cond
from smalti.text.sequence import Part, rows_of
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


def chameleon(folder: Path, **changes: Any) -> Any:
    """A model that transformers writes, with its text tokenizer, into a folder of shards."""
    ids = text_tokenizer(folder, NAMES, SPECIALS)
    codec = {"embed_dim": 4, "num_embeddings": CODES, "latent_channels": 4, "resolution": 8}
    codec |= {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}
    settings = {"num_key_value_heads": 2, "vq_config": codec, "vocabulary_map": ids}
    torch.manual_seed(0)
    config = transformers.ChameleonConfig(vocab_size=len(ids), **SIZES | settings | changes)
    model = shaken(transformers.ChameleonForConditionalGeneration(config))
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return model


def convert(project: str, folder: Path, *more: str) -> UnifiedPipeline:
    """What the command makes of a folder of transformers, `hf`, and `vqgan.ckpt` beside it."""
    files = ["--tokenizer", str(folder / "vqgan.ckpt"), "--size", PIXELS]
    model = [] if "--model" in more else ["--model", str(folder / "hf")]
    main(["convert", project, *files, *model, *more, "--out", str(folder / "out")])
    return load_unified(folder / "out", "cpu", torch.float32)


@torch.no_grad()
def next_ids(theirs: Any, ids: Tensor, codes: bool, pipe: UnifiedPipeline, n: int) -> Tensor:
    """The n likeliest ids behind a row, of codes or of text alone, by logits that are not
    masked."""
    model = pipe.model
    some = model.config.wrapping.is_code(torch.arange(model.vocab), model.spec)
    some = some if codes else model.written & _within(pipe)
    for _ in range(n):
        logits = theirs.lm_head(theirs.model(input_ids=ids[None]).last_hidden_state)[0, -1]
        ids = torch.cat((ids, logits.masked_fill(~some, -torch.inf).argmax()[None]))
    return ids[-n:]


def _within(pipe: UnifiedPipeline) -> Tensor:
    written = torch.zeros(pipe.model.vocab, dtype=torch.bool)
    written[: pipe.words.vocab] = pipe.words.written
    return written


def drawn_codes(pipe: UnifiedPipeline, text: str) -> Tensor:
    """The likeliest codes behind a text without guidance, by the pipeline's own picture."""
    (image,) = pipe(text, guidance=1.0, guidance_pictures=None, temperature=1.0, top_k=1, top_p=1.0)
    assert image.size == (6, 4)
    found = list[Tensor]()
    decode = pipe.tokenizer.decode
    pipe.tokenizer.decode = lambda codes, *rest: found.append(codes) or decode(codes, *rest)
    pipe(text, guidance=1.0, guidance_pictures=None, temperature=1.0, top_k=1, top_p=1.0)
    pipe.tokenizer.decode = decode
    return found[0][0]


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
    written = pipe.model.written & _within(pipe)
    assert written.nonzero().flatten().tolist() == [
        i for i, name in enumerate([*NAMES, *ALPHABET]) if name == "<" or i >= len(NAMES)
    ]  # fmt: skip
    assert pipe.sampling.guidance.scale == 3 and pipe.sampling.guidance.pictures == 1.2
    assert pipe.writing.penalty == 1.2

    prompt = [0, *pipe.words.read("a dog"), names["<reserved08706>"], config.begin]
    expected = next_ids(theirs, torch.tensor(prompt), True, pipe, 6)
    assert torch.equal(drawn_codes(pipe, "a dog"), config.wrapping.code_of(expected))


def test_chameleon_answers_as_transformers_does(tmp_path):
    """The likeliest ids behind a question about a picture."""
    vqgan(tmp_path)
    theirs = chameleon(tmp_path / "hf", swin_norm=True)
    pipe = convert("chameleon", tmp_path)
    image = pipe("a dog", seed=1)[0]
    config = pipe.model.config
    codes = pipe._encode(image)
    row = [0, config.begin, *config.wrapping.id_of(codes).tolist(), config.end]
    row += [*pipe.words.read("what is it?"), NAMES.index("<reserved08706>")]
    greedy = {"text_temperature": 0.0, "text_top_p": 1.0, "penalty": 1.0}
    some = _within(pipe) & pipe.model.written
    # theirs may stop too: ids that stop are left out there, so a text that stops is a beginning
    expected = pipe.words.write(next_ids(theirs, torch.tensor(row), False, pipe, 5).tolist())
    answer = "".join(
        event.text
        for event in pipe.go_on(
            [pipe.phrases.put(pipe.phrases.ask, ["what is it?"], [image])],
            _wish(), words=5, **greedy,
        )
        if isinstance(event, Said) and event.whole
    )  # fmt: skip
    assert some.any() and expected.startswith(answer)


def _wish() -> Any:
    from smalti.pipeline.unified import Wish

    return Wish()
