"""ILLUME+'s files: a small tokenizer and a small folder, as they are published, become a pipeline;
what its parts give, and mistakes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from builders import build
from official import official_dualvitok
from smalti.cli.main import main
from smalti.interop.dualvitok import HEADS, tokenizer_sizes, tokenizer_state
from smalti.interop.pickles import Checkpoint
from smalti.loading import load_tokenizer, load_unified
from smalti.models.dual_eye import DualEye, DualEyeConfig
from smalti.nn.frozen_vit import FrozenViTConfig
from smalti.nn.vision import TowerConfig
from smalti.pipeline.unified import UnifiedPipeline
from smalti.text.sequence import Part, rows_of
from smalti.tokenizers.dual import DualConfig, DualTokenizer
from smalti.tokenizers.dual_pixels import PixelConfig
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

transformers: Any = pytest.importorskip("transformers", reason="smalti[text] is missing")
pytestmark = pytest.mark.usefixtures("float32")

PIXELS = PixelConfig(channels=8, multipliers=(1, 2, 2, 2), blocks=1, attends=(3,), latent=4)
CONFIG = DualConfig(
    size=(64, 128),
    vit=FrozenViTConfig(
        patch=8, merge=2, features=20, vision=TowerConfig(1, HEADS, 64, 96, "sigmoid")
    ),
    width=64, layers=1, decoder_layers=2, heads=HEADS, semantic_vocab=6, semantic_dim=4,
    pixel_vocab=10, pixel_dim=4, encoder=replace(PIXELS, channels=4, multipliers=(2, 4, 4, 4)),
    decoder=replace(PIXELS, attends=(1, 3), latent=8),
)  # fmt: skip
"""Of 4 x 8 and 8 x 16 codes."""
CODES = [f"<|image_level{k}_{i}|>" for k, n in ((0, 6), (1, 10)) for i in range(n)]
AROUND = ["<start_of_image>", "<end_of_image>", "<end_of_line>", "<start_of_level0>",
          "<end_of_level0>", "<start_of_level1>", "<end_of_level1>"]  # fmt: skip
SIDES = [f"<{side}_{64 * i}>" for side in ("height", "width") for i in (1, 2)]
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PADDED = 5
"""Rows of the table that no id has, between the words and the new ids' end."""


def words(folder: Path, codes: list[str] = CODES) -> dict[str, int]:
    """Write a byte-level text tokenizer with ILLUME+'s ids; its ids by name."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    names = [*MARKS, *AROUND, *SIDES, *codes]
    made.add_special_tokens([AddedToken(name, special=True) for name in names])
    made.save(str(folder / "tokenizer.json"))
    return made.get_vocab()


def published(tokenizer: DualTokenizer, eye: DualEye, folder: Path, bare: bool = False) -> Any:
    """Write a tokenizer's file and a model's folder; the language model of transformers."""
    folder.mkdir()
    torch.save({"model": official_dualvitok(tokenizer.state_dict())}, folder / "dualvitok.pth")
    ids = words(folder)
    torch.manual_seed(1)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        vocab_size=len(ids) + PADDED, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
        tie_word_embeddings=True,
    )).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    held = load_file(folder / "model.safetensors")
    seeing = official_dualvitok(eye.state_dict() | {"decoder.up.0.x": torch.zeros(1)})
    for name, tensor in seeing.items():
        if not name.startswith("pixel_decoder"):
            name = name.replace("encoder.model.", "encoder.") if bare else name
            held[f"model.vision_tower.{name}"] = tensor.contiguous()
    for k, width in enumerate((20, 4)):
        for i, inputs in ((0, width), (2, 32)):
            held[f"model.mm_projector.{k}.{i}.weight"] = 0.2 * torch.randn(32, inputs)
            held[f"model.mm_projector.{k}.{i}.bias"] = 0.2 * torch.randn(32)
    save_file(held, folder / "model.safetensors")
    told = json.loads((folder / "config.json").read_text()) | {"model_type": "illume_qwen2"}
    (folder / "config.json").write_text(json.dumps(told))
    return model


@pytest.fixture(scope="module")
def parts() -> tuple[DualTokenizer, DualEye]:
    """A tokenizer, and an eye that learned on."""
    tokenizer = build(DualTokenizer, CONFIG)
    return tokenizer, build(DualEye, DualEyeConfig((64, 128), CONFIG.vit, PIXELS), seed=5)


def convert(folder: Path, out: Path, *more: str) -> UnifiedPipeline:
    main(["convert", "illume", "--tokenizer", str(folder / "dualvitok.pth"), "--model", str(folder),
          "--size", "64x128", *more, "--out", str(out)])  # fmt: skip
    return load_unified(out, "cpu", torch.float32)


@torch.no_grad()
def test_names_and_sizes_are_found_in_the_file(parts):
    tokenizer, _ = parts
    state = official_dualvitok(tokenizer.state_dict())
    found = tokenizer_sizes(Checkpoint(Path("dualvitok.pth"), state, {}, ""))
    assert replace(found, size=CONFIG.size) == CONFIG and found.size == (16, 16)
    made = DualTokenizer(CONFIG)
    made.load_state_dict(tokenizer_state(state))
    for name, tensor in tokenizer.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], tensor)


@torch.no_grad()
@pytest.mark.parametrize("bare", [False, True])
def test_a_folder_becomes_a_pipeline(parts, tmp_path, bare):
    tokenizer, eye = parts
    theirs = published(tokenizer, eye, tmp_path / "hf", bare)
    pipe, ids = convert(tmp_path / "hf", tmp_path / "out"), words(tmp_path)
    images = torch.rand(1, 3, 64, 128) * 2 - 1
    assert torch.equal(pipe.tokenizer.encode(images), tokenizer.encode(images))
    assert pipe.eye is not None
    torch.testing.assert_close(pipe.eye.encode(images), eye.encode(images), rtol=1e-4, atol=1e-5)
    model, codes = pipe.model, tokenizer.encode(images)[0]
    rows = rows_of([[Part(torch.tensor([1, 2])), Part(codes, model.spec)]], model.wrapping)
    # ids as they are written there
    line, written = ids["<end_of_line>"], list[int]()
    first, second = model.spec.by_table(codes[None])
    for k, grid in enumerate((first.view(4, 8), second.view(8, 16))):
        written.append(ids[f"<start_of_level{k}>"])
        for row in grid.tolist():
            written += [*(ids[f"<|image_level{k}_{code}|>"] for code in row), line]
        written.append(ids[f"<end_of_level{k}>"])
    begin = [ids[name] for name in ("<height_64>", "<width_128>", "<start_of_image>")]
    assert rows.ids[0].tolist() == [1, 2, *begin, *written, ids["<end_of_image>"]]
    logits = model.logits(model.hidden(rows))
    torch.testing.assert_close(logits, theirs(rows.ids).logits, rtol=1e-3, atol=1e-3)
    # a picture that is read: features of both levels through projectors, the same ids around them
    seen = Part(eye.encode(images)[0], model.sight.spec, learned=False, seen=True)
    rows = rows_of([[Part(torch.tensor([1, 2])), seen]], model.wrapping)
    assert [int(i) for i in rows.ids[0] if i >= 0] == [
        1, 2, *begin, *(i for i in written if i not in codes + model.config.first),
        ids["<end_of_image>"],
    ]  # fmt: skip
    held = load_file(tmp_path / "hf" / "model.safetensors")
    vectors = theirs.model.embed_tokens(rows.ids.clamp(min=0))
    projected = list[Tensor]()
    for k, part in enumerate((eye.vit(images), eye.encoder(images))):
        w = {n: held[f"model.mm_projector.{k}.{n}"] for n in ("0.weight", "0.bias", "2.weight",
                                                              "2.bias")}  # fmt: skip
        x = part.flatten(2).mT @ w["0.weight"].T + w["0.bias"]
        projected.append(torch.nn.functional.gelu(x) @ w["2.weight"].T + w["2.bias"])
    vectors = vectors.masked_scatter((rows.ids < 0)[..., None], torch.cat(projected, 1))
    wanted = theirs(inputs_embeds=vectors).logits
    torch.testing.assert_close(model.logits(model.hidden(rows)), wanted, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_what_is_compared_with_is_what_it_learned(parts, tmp_path):
    published(*parts, tmp_path / "hf")
    pipe, ids = convert(tmp_path / "hf", tmp_path / "out"), words(tmp_path)
    sampling = pipe.sampling
    assert sampling.guidance.scale == 2 and sampling.filters.top_k == (2048, 6144)
    config = pipe.model.config
    turn, size = ids["<|im_start|>"], [ids["<height_64>"], ids["<width_128>"]]
    assert config.random.count(turn) == config.restore.count(turn) == 3
    at = config.random.index(size[0])
    assert list(config.random[at : at + 2]) == size
    asked = pipe.phrases.put(pipe.phrases.draw, ["a cat"])
    assert [piece for piece in asked if piece in ("<height_64>", "<width_128>")] == [
        "<height_64>", "<width_128>"]  # fmt: skip
    allowed = pipe.model.written[: pipe.words.vocab] & pipe.words.written
    assert not allowed[[ids[name] for name in (*AROUND, *SIDES, *CODES)]].any()


def test_the_tokenizer_alone(parts, tmp_path):
    published(*parts, tmp_path / "hf")
    main(["convert", "illume", "--tokenizer", str(tmp_path / "hf" / "dualvitok.pth"), "--size",
          "32x48", "--out", str(tmp_path / "t")])  # fmt: skip
    assert load_tokenizer(tmp_path / "t").spec.grids == ((2, 3), (4, 6))


@pytest.mark.parametrize(
    ("change", "words_of_it"),
    [
        ("size", "--size must be a number or HEIGHTxWIDTH, multiples of 64, got '40'"),
        ("no side", "the text tokenizer has no '<height_192>'"),
        ("codes", "the text tokenizer has no '<|image_level1_9|>'"),
        ("projector", "mm_projector.1 must have two layers, got 1"),
        ("eye", "projectors must read 20 and 4 numbers, got 20, 3"),
    ],
)
def test_mistakes_are_one_line(parts, tmp_path, capsys, change, words_of_it):
    folder = tmp_path / "hf"
    published(*parts, folder)
    size = {"size": "40", "no side": "192x128"}.get(change, "64x128")
    if change == "codes":
        words(folder, CODES[:-1])
    held = load_file(folder / "model.safetensors")
    if change == "projector":
        held = {n: t for n, t in held.items() if "mm_projector.1.2" not in n}
    if change == "eye":
        held["model.mm_projector.1.0.weight"] = torch.ones(32, 3)
    if change in ("projector", "eye"):
        save_file(held, folder / "model.safetensors")
    with pytest.raises(SystemExit) as stop:
        main(["convert", "illume", "--tokenizer", str(folder / "dualvitok.pth"), "--model",
              str(folder), "--size", size, "--out", str(tmp_path / "out")])  # fmt: skip
    assert stop.value.code == 2
    assert words_of_it in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
