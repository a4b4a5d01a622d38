"""Emu3's folder: a small random one as transformers saves it becomes a pipeline; mistakes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from official import shards
from smalti.cli.main import main
from smalti.interop import language
from smalti.interop.convert import pipeline_of, read_part
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.emu3 import (
    NEGATIVE,
    PROJECT,
    Emu3Files,
    fill_model,
    model_sizes,
    tokenizer_sizes,
    tokenizer_state,
)
from smalti.loading import load_unified
from smalti.models.emu3 import Emu3
from smalti.modules import assemble
from smalti.text.sequence import Part, rows_of
from smalti.tokenizers.emu3_vq import Emu3VQ
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

transformers: Any = pytest.importorskip("transformers", reason="smalti[text] is missing")

NAMES = ["<|endoftext|>", "<|extra_200|>", "<|extra_201|>", "<|extra_203|>", "<|extra_204|>"]
NAMES += ["<|image token|>", "<|image start|>", "<|image end|>", "<image>"]
CODES = [f"<|visual token {i:06}|>" for i in range(24)]


def words() -> Tokenizer:
    """A byte-level text tokenizer that has Emu3's marks and words for 24 codes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in [*NAMES, *CODES]])
    return made


@pytest.fixture
def folder(tmp_path):
    """(model of transformers, its folder)."""
    made = words()
    vq = {"codebook_size": 24, "base_channels": 32, "channel_multiplier": [1, 2, 2],
          "num_res_blocks": 1, "attn_resolutions": [2], "hidden_size": 64}  # fmt: skip
    text = {"vocab_size": made.get_vocab_size(), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Emu3ForConditionalGeneration(
        transformers.Emu3Config(vq_config=vq, text_config=text, vocabulary_map=made.get_vocab())
    ).eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() and "inv_freq" not in name:
                noise = 0.1 * torch.randn_like(tensor)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    out = tmp_path / "emu3"
    model.save_pretrained(out)
    made.save(str(out / "tokenizer.json"))
    return model, out


@torch.no_grad()
def test_pictures_are_coded_as_there(folder):
    model, out = folder
    checkpoint = read_part(PROJECT.tokenizer, out)
    config = tokenizer_sizes(checkpoint)
    made = assemble(Emu3VQ, config, tokenizer_state(checkpoint.state), str(out)).eval()
    torch.manual_seed(1)
    images = torch.rand(2, 3, 4 * 3, 4 * 5) * 2 - 1
    spec = made.spec_of((12, 20))
    theirs = model.model.vqmodel.encode(images, torch.tensor([[12, 20]] * 2)).image_tokens
    codes = made.encode(images, spec)
    assert torch.equal(codes, torch.stack(theirs).flatten(1))
    assert len(codes.unique()) > 3
    pixels = model.model.vqmodel.decode(codes.view(2, 3, 5))
    torch.testing.assert_close(made.decode(codes, spec), pixels, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_folder_becomes_a_pipeline(folder, tmp_path):
    theirs, out = folder
    place, to = str(out), str(tmp_path / "pipeline")
    main(["convert", "emu3", "--tokenizer", place, "--model", place, "--words", place,
          "--size", "8x12", "--out", to])  # fmt: skip
    pipeline = load_unified(to, dtype="float32")
    model, vocabulary = pipeline.model, words().get_vocab()
    codes = torch.tensor([0, 5, 23, 7, 7, 1])
    rows = rows_of([[Part(torch.tensor([1, 2])), Part(codes, model.spec)]], model.wrapping)
    # what stands in a row is what their processor and model write
    size = [vocabulary[letter] for letter in "2*3"]
    grid = theirs.model.vocabulary_mapping.convert_img2bpe(codes.view(2, 3)).flatten().tolist()
    begin, image = vocabulary["<|image start|>"], vocabulary["<|image token|>"]
    end = [vocabulary["<|extra_201|>"], vocabulary["<|image end|>"]]
    assert rows.ids[0].tolist() == [1, 2, begin, *size, image, *grid, *end]
    logits = model.logits(model.read(rows, 0, rows.ids.shape[1], None))
    torch.testing.assert_close(logits, theirs(rows.ids).logits, rtol=1e-4, atol=1e-4)
    (picture,) = pipeline(["ab"])
    assert picture.size == (12, 8)
    assert picture.info["smalti"]["negative"] == NEGATIVE
    assert isinstance(pipeline.ask(picture, "what?", words=3), str)


def test_names_of_all_versions_are_read(folder, tmp_path):
    """Those in the memory of transformers, those of files, and those of BAAI's own folder, each
    shard by shard."""
    model, out = folder
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    older = [("model.text_model.", "text_model.model."), ("lm_head.", "text_model.lm_head."),
             ("model.vqmodel.", "vqmodel.")]  # fmt: skip
    found = list[dict[str, torch.Tensor]]()
    for changes in ([], older, [("model.text_model.", "model.")]):
        named = dict[str, torch.Tensor]()
        for name, tensor in state.items():
            for begin, other in changes:
                name = re.sub(f"^{re.escape(begin)}", other, name)
            named[name] = tensor
        (parts := tmp_path / str(len(found))).mkdir()
        other_model = Emu3(model_config(out)).requires_grad_(False)
        fill_model(other_model, shards(named, parts))
        assert torch.equal(other_model.language.output.weight, state["lm_head.weight"])
        ours = other_model.language.tok_embeddings.weight
        assert torch.equal(ours, state["model.text_model.embed_tokens.weight"])
        save_file(named, out / "model.safetensors")
        found.append(read_part(PROJECT.model, out).state)  # type: ignore[arg-type]
        codes = read_part(PROJECT.tokenizer, out).state
        assert tokenizer_state(codes).keys() == Emu3VQ(tokenizer_config(out)).state_dict().keys()
    assert found[0].keys() == found[1].keys() == found[2].keys()
    assert not any("vq" in name for name in found[0])


def model_config(out):
    options = Emu3Files(out, out, out, size="8x12")
    return model_sizes(read_part(PROJECT.model, out), options, tokenizer_config(out))


def test_a_folder_in_shards_becomes_a_pipeline_one_after_another(folder, tmp_path, monkeypatch):
    theirs, out = folder
    (out / "model.safetensors").unlink()
    shards(theirs.state_dict(), out)
    read, plain = list[str](), language.read_checkpoint

    def noted(path: Path) -> Checkpoint:
        read.append(path.name)
        return plain(path)

    monkeypatch.setattr(language, "read_checkpoint", noted)
    options = Emu3Files(out, out, out, size="8x12")
    made = pipeline_of(PROJECT, options).model
    assert read == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert torch.equal(made.language.output.weight, theirs.lm_head.weight)


def tokenizer_config(out):
    return tokenizer_sizes(read_part(PROJECT.tokenizer, out))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no words", "give --words: tokenizer.json of the model, or its folder"),
        ("no codes", "the text tokenizer has no '<|visual token 000000|>'"),
        ("kind", "model_type 'emu9' is not known"),
    ],
)
def test_mistakes_are_named(folder, tmp_path, capsys, change, message):
    _, out = folder
    extra = [] if change == "no words" else ["--words", str(out)]
    if change == "no codes":
        text = (out / "tokenizer.json").read_text()
        (out / "tokenizer.json").write_text(text.replace("visual", "visible"))
    if change == "kind":
        told = json.loads((out / "config.json").read_text())
        told["text_config"]["model_type"] = "emu9"
        (out / "config.json").write_text(json.dumps(told))
    command = ["convert", "emu3", "--tokenizer", str(out), "--model", str(out), *extra]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--size", "8", "--out", str(tmp_path / "pipeline")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "pipeline").exists()
