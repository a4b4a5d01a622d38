"""Show-o's files: a tokenizer and a model under official names become a pipeline; mistakes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from official import shards, write
from smalti.cli.main import main
from smalti.interop import language
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects.show_o import tokenizer_sizes, tokenizer_state
from smalti.loading import load_unified
from smalti.models import show_o
from smalti.models.show_o import ShowO
from smalti.modules import assemble
from smalti.tokenizers import magvit2
from smalti.tokenizers.magvit2 import MAGVIT2, MAGVIT2Config
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


def official_tokenizer(module: MAGVIT2) -> dict[str, Tensor]:
    """The state dict under the names that the released file has."""
    levels, found = len(module.config.multipliers), dict[str, Tensor]()
    for name, tensor in module.state_dict().items():
        name = re.sub(r"^decoder\.up\.(\d+)",
                      lambda m: f"decoder.up.{levels - 1 - int(m[1])}", name)  # fmt: skip
        name = re.sub(r"^(encoder\.down\.\d+)\.after\.", r"\1.downsample.", name)
        name = re.sub(r"^(decoder\.up\.\d+)\.after\.", r"\1.upsample.", name)
        name = re.sub(r"^quant_conv\.", "encoder.quant_conv.", name)
        name = re.sub(r"^post_quant_conv\.", "decoder.post_quant_conv.", name)
        for ours, theirs in (("0", "block_1"), ("1", "attn_1"), ("2", "block_2")):
            name = name.replace(f".mid.{ours}.", f".mid.{theirs}.")
        found[name] = tensor
    bits = module.config.bits
    constants = {"quantize.embedding": torch.ones(2**bits, bits)}
    return found | constants | {"quantize.power_vals": 2 ** torch.arange(bits).flip(0)}


def official_model(module: ShowO) -> dict[str, Tensor]:
    names = {
        "tok_embeddings": "model.embed_tokens", "norm": "model.final_layernorm",
        "output": "lm_head", "attention.wo": "self_attn.dense",
        "attention.q_norm": "self_attn.q_layernorm", "attention.k_norm": "self_attn.k_layernorm",
        "feed_forward.w1": "mlp.fc1", "feed_forward.w2": "mlp.fc2",
        "attention_norm": "input_layernorm",
    }  # fmt: skip
    found = dict[str, Tensor]()
    for name, tensor in module.language.state_dict().items():
        layer = re.match(r"layers\.\d+\.", name)
        part, _, kind = name[layer.end() if layer else 0 :].rpartition(".")
        begin = f"showo.model.{layer[0]}" if layer else "showo."
        if part == "attention.wqkv":
            for one, rows in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{begin}self_attn.{one}_proj.{kind}"] = rows
        else:
            found[f"{begin}{names[part]}.{kind}"] = tensor.squeeze(0)
    return found


def words(folder: Path) -> int:
    """A byte-level text tokenizer with the mark of Phi; how many ids it has."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return made.get_vocab_size()


@pytest.fixture
def files(tmp_path) -> tuple[MAGVIT2, ShowO, list[str]]:
    """A tokenizer, a model, and the command that converts their files."""
    torch.manual_seed(0)
    codes, text = MAGVIT2(magvit2.tiny()), words(tmp_path / "words")
    first, vocab = text + 10, text + 10 + 32 + 1
    config = show_o.tiny(
        language=replace(show_o.tiny().language, vocab=vocab),
        grid=(4, 6), codes=32, first=first, begin=text + 1, end=text + 2, draws=text + 5,
        reads=text + 6, pad=text, sentence=(text - 1, text - 1), length=2048,
    )  # fmt: skip
    model = ShowO(config)
    with torch.no_grad():
        for parameter in (*codes.parameters(), *model.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    write(official_tokenizer(codes), tmp_path / "magvit.bin")
    write(official_model(model), tmp_path / "model.bin")
    command = ["convert", "show-o", "--tokenizer", str(tmp_path / "magvit.bin"), "--size", "16x24"]
    return codes, model, command


def test_files_become_a_pipeline(files, tmp_path, capsys):
    codes, model, command = files
    model_at, words_at = str(tmp_path / "model.bin"), str(tmp_path / "words")
    out = str(tmp_path / "out")
    main([*command, "--model", model_at, "--words", words_at, "--out", out])
    assert "smalti sample" in capsys.readouterr().err
    pipeline = load_unified(out, dtype="float32")
    assert pipeline.model.config == model.config
    assert pipeline.tokenizer.size == (16, 24)
    for mine, theirs in ((codes, pipeline.tokenizer), (model, pipeline.model)):
        state = theirs.state_dict()
        assert mine.state_dict().keys() == state.keys()
        assert all(torch.equal(t, state[name]) for name, t in mine.state_dict().items())
    (image,) = pipeline(["ab"], steps=3)
    assert image.size == (24, 16)
    assert isinstance(pipeline.ask(image, "what?", words=3), str)


def test_shards_are_read_one_after_another(files, tmp_path, monkeypatch):
    _, model, command = files
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    write(official_model(model), whole / "pytorch_model.safetensors")  # as the released folders
    shards(official_model(model), parts)
    read = list[str]()
    plain = language.read_checkpoint

    def noted(path: Path) -> Checkpoint:
        read.append(path.name)
        return plain(path)

    monkeypatch.setattr(language, "read_checkpoint", noted)
    for folder in (whole, parts):
        main([*command, "--model", str(folder), "--words", str(tmp_path / "words"),
              "--out", str(tmp_path / f"of-{folder.name}")])  # fmt: skip
        state = load_unified(tmp_path / f"of-{folder.name}", dtype="float32").model.state_dict()
        assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert read == [
        "pytorch_model.safetensors",
        *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2)),
    ]


def test_a_tokenizer_alone(files, tmp_path):
    codes, _, command = files
    main([*command, "--out", str(tmp_path / "out")])
    assert "magvit2" in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--words"], "give --words: tokenizer.json of microsoft/phi-1_5, or its folder"),
        (["vocab"], "of text, but"),
        (["missing"], "model.bin: 1 tensors missing, such as norm.weight"),
        (["other"], "model.bin: head.weight is no part of a phi of these settings"),
        (["clip"], "reads pictures by CLIP"),
        (["swapped"], "looks like a tokenizer of Show-o; try: smalti convert show-o --tokenizer"),
    ],
)
def test_mistakes_are_named(files, tmp_path, capsys, change, message):
    _, model, command = files
    path = tmp_path / "model.bin"
    state = official_model(model)
    if change == ["vocab"]:
        state["showo.model.embed_tokens.weight"] = torch.zeros(400, 32)
    if change == ["missing"]:
        del state["showo.model.final_layernorm.weight"]
    if change == ["other"]:
        state["head.weight"] = torch.zeros(2, 2)
    if change == ["clip"]:
        state["mm_projector.0.weight"] = torch.zeros(2, 2)
    write(state, path)
    if change == ["swapped"]:
        path = tmp_path / "magvit.bin"
    extra = [] if change == ["--words"] else ["--words", str(tmp_path / "words")]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--model", str(path), *extra, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not (tmp_path / "out").exists()


def test_the_published_sizes_come_back():
    """Of names that the released file has, as its code says: levels, blocks, widths, bits."""
    with torch.device("meta"):
        made = MAGVIT2(MAGVIT2Config())
    state = official_tokenizer(made)
    shapes = {
        "encoder.down.0.block.3.conv2.weight": (128, 128, 3, 3),
        "encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.down.3.block.2.conv1.weight": (512, 512, 3, 3),
        "encoder.down.3.downsample.conv.weight": (512, 512, 3, 3),
        "encoder.conv_out.weight": (13, 512, 3, 3),
        "encoder.quant_conv.weight": (13, 13, 1, 1),
        "decoder.conv_in.weight": (512, 13, 3, 3),
        "decoder.up.4.block.2.conv1.weight": (512, 512, 3, 3),
        "decoder.up.3.block.0.nin_shortcut.weight": (256, 512, 1, 1),
        "decoder.up.2.block.2.conv1.weight": (256, 256, 3, 3),
        "decoder.up.1.upsample.conv.weight": (128, 128, 3, 3),
        "decoder.up.0.block.3.conv2.weight": (128, 128, 3, 3),
        "decoder.norm_out.weight": (128,),
    }
    for name, shape in shapes.items():
        assert tuple(state[name].shape) == shape
    assert "encoder.down.4.downsample.conv.weight" not in state
    assert "decoder.up.0.upsample.conv.weight" not in state
    found = tokenizer_sizes(Checkpoint(Path("x.bin"), state, {}))
    assert found == MAGVIT2Config(size=(16, 16))
    assert assemble(MAGVIT2, found, tokenizer_state(state), "x.bin").config == found


def test_the_first_bit_counts_most():
    quantize = MAGVIT2(magvit2.tiny()).quantize
    z = torch.tensor([1.0, -1, -1, 0.5, -2]).view(1, 5, 1, 1)
    assert quantize.encode(z).item() == 0b10010
    assert torch.equal(quantize.decode(torch.tensor([[[18]]])), z.sign())
