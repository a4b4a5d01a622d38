"""Janus's files: a folder of either layout becomes a pipeline with an eye; mistakes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from official import write
from smalti.cli.main import main
from smalti.interop.kinds import advice
from smalti.interop.projects.janus import ASSISTANT, BEGIN, END, PAD, START, STOP, USER
from smalti.loading import load_tokenizer, load_unified
from smalti.models.eye import TowerEye, TowerEyeConfig
from smalti.models.janus import Janus, tiny
from smalti.models.language import tiny as tiny_language
from smalti.models.towers import TowerConfig
from smalti.models.unified import Marks
from smalti.tokenizers.vqgan import VQGAN, VQGANConfig
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NAMES = (BEGIN, END, START, STOP, PAD, USER, ASSISTANT)
LANGUAGE = {
    "tok_embeddings": "embed_tokens", "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj", "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}  # fmt: skip
OURS = {
    "transformers": (
        (r"^code_embeddings", "model.generation_embeddings"),
        (r"^code_proj", "model.generation_head.proj_out"),
        (r"^code_head", "model.generation_head.vision_head"),
        (r"^code_aligner\.", "model.generation_aligner."),
        (r"^aligner\.", "model.aligner."),
        (r"aligner\.layers\.0", "aligner.fc1"),
        (r"aligner\.layers\.1", "aligner.hidden_layers.0"),
        (r"aligner\.layers\.2", "aligner.hidden_layers.1"),
    ),
    "deepseek": (
        (r"^code_embeddings", "gen_embed"),
        (r"^code_proj", "gen_head.output_mlp_projector"),
        (r"^code_head", "gen_head.vision_head"),
        (r"^code_aligner\.", "gen_aligner."),
        (r"aligner\.layers\.2", "aligner.layers.4"),
        (r"aligner\.layers\.1", "aligner.layers.2"),
    ),
}
TOWER = {
    "transformers": (
        ("patches", "embeddings.patch_embedding"),
        ("positions", "embeddings.position_embedding.weight"),
        (r"^layers", "encoder.layers"),
        (r"\.norm1", ".layer_norm1"),
        (r"\.norm2", ".layer_norm2"),
        (r"\.wo", ".self_attn.projection_layer"),
        (r"^norm", "post_layernorm"),
        (r"feed_forward\.w", "mlp.fc"),
    ),
    "deepseek": (
        ("patches", "patch_embed.proj"),
        ("positions", "pos_embed"),
        (r"^layers", "blocks"),
        (r"\.wqkv", ".attn.qkv"),
        (r"\.wo", ".attn.proj"),
        (r"feed_forward\.w", "mlp.fc"),
    ),
}
CODES = (
    (r"coder\.conv_blocks\.(\d+)\.res", r"coder.conv_blocks.\1.block"),
    (r"encoder\.conv_blocks", "encoder.down"),
    (r"decoder\.conv_blocks", "decoder.up"),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.", ".mid.attn_1."),
    (r"\.mid\.2\.", ".mid.block_2."),
)
TOWER_BEGINS = {"transformers": "model.vision_model.", "deepseek": "vision_model.vision_tower."}


def renamed(name: str, names: Any) -> str:
    for ours, theirs in names:
        name = re.sub(ours, theirs, name)
    return name


def official(layout: str, model: Janus, eye: TowerEye, codes: VQGAN) -> dict[str, Tensor]:
    """The tensors of a folder of this layout."""
    there, found = layout == "transformers", dict[str, Tensor]()
    begin = "model.language_model." if there else "language_model.model."
    for name, tensor in model.state_dict().items():
        if not name.startswith("language."):
            found[renamed(name, OURS[layout])] = tensor
            continue
        name = name.removeprefix("language.")
        if name == "output.weight":
            found["lm_head.weight" if there else "language_model.lm_head.weight"] = tensor
        elif name.endswith("wqkv.weight"):
            layer = f"{begin}{name.removesuffix('attention.wqkv.weight')}self_attn."
            for one, rows in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{layer}{one}_proj.weight"] = rows
        else:
            found[begin + renamed(name, [(re.escape(a), b) for a, b in LANGUAGE.items()])] = tensor
    for name, tensor in eye.tower.state_dict().items():
        name = TOWER_BEGINS[layout] + renamed(name, TOWER[layout])
        if there and ".wqkv." in name:
            for one, rows in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace("wqkv", f"self_attn.{one}_proj")] = rows
        else:
            found[name] = tensor[None] if name.endswith("pos_embed") else tensor
    for name, tensor in codes.state_dict().items():
        begin = "model.vqmodel." if there else "gen_vision_model."
        found[begin + (renamed(name, CODES) if there else name)] = tensor
    if not there:
        found["vision_model.vision_tower.attn_pool.latent"] = torch.zeros(1, 1, 32)
        found["gen_vision_model.quantize.codebook_used"] = torch.zeros(9)
    return found


SETTINGS: dict[str, Any] = {
    "transformers": {
        "model_type": "janus",
        "text_config": {"num_attention_heads": 2, "rms_norm_eps": 1e-5},
        "vision_config": {"num_attention_heads": 16, "hidden_act": "gelu"},
        "vq_config": {},
    },
    "deepseek": {
        "model_type": "multi_modality",
        "language_config": {"model_type": "llama", "num_attention_heads": 2, "rms_norm_eps": 1e-5},
        "vision_config": {"params": {"model_name": "siglip_large_patch16_384"}},
        "aligner_config": {"params": {"projector_type": "mlp_gelu", "depth": 2}},
    },
}


def words(folder: Path) -> dict[str, int]:
    """A byte-level text tokenizer with the names of Janus."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in NAMES])
    made.save(str(folder / "tokenizer.json"))
    return made.get_vocab(with_added_tokens=True)


def random(module: nn.Module) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


@pytest.fixture
def parts(tmp_path) -> tuple[Janus, TowerEye, VQGAN]:
    """What a folder holds, and a text tokenizer in it."""
    ids, folder = words(tmp_path), Path(tmp_path)
    assert folder.is_dir()
    torch.manual_seed(0)
    config = tiny(
        language=replace(tiny_language(), vocab=max(ids.values()) + 1), grid=(2, 2), codes=32,
        code_layers=3, seen_dim=32, begin=ids[BEGIN], end=ids[END],
        marks=Marks(ids[START], (ids[STOP],), ids[PAD]), length=4096,
    )  # fmt: skip
    tower = TowerConfig(layers=2, heads=16, dim=32, ffn_dim=48, gelu="none")
    eye = TowerEyeConfig(size=16, patch=8, mean=(0.4, 0.5, 0.5), vision=tower)
    vq = VQGANConfig((4, 4), channels=8, multipliers=(1, 2), blocks=1, latent=8, vocab=32, dim=4)
    return random(Janus(config)), random(TowerEye(eye)), random(VQGAN(vq))


def written(layout: str, parts: tuple[Janus, TowerEye, VQGAN], folder: Path) -> Path:
    """The folder of these parts."""
    write(official(layout, *parts), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(SETTINGS[layout]))
    pixels = {"image_mean": [0.4, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder


def same(a: nn.Module, b: nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name, t in ours.items() if not torch.equal(t, theirs[name])] == []


@pytest.mark.parametrize("layout", ["transformers", "deepseek"])
def test_a_folder_becomes_a_pipeline(layout, parts, tmp_path, capsys):
    model, eye, codes = parts
    folder, out = written(layout, parts, tmp_path), tmp_path / "out"
    main(["convert", "janus", "--model", str(folder), "--out", str(out)])
    assert "smalti sample" in capsys.readouterr().err
    pipe = load_unified(out, dtype="float32")
    assert pipe.model.config == model.config and pipe.eye is not None
    assert pipe.eye.config == eye.config and pipe.tokenizer.config == codes.config
    for mine, theirs in ((model, pipe.model), (eye, pipe.eye), (codes, pipe.tokenizer)):
        same(mine, theirs)
    (image,) = pipe(["ab"])
    assert image.size == (4, 4) and image.info["smalti"]["guidance"] == 5.0
    assert isinstance(pipe.ask(image, "what?", words=3), str)
    alone = tmp_path / "alone"
    main(["convert", "janus", "--tokenizer", str(folder), "--plain-codes", "--out", str(alone)])
    tokenizer = load_tokenizer(alone)
    assert tokenizer.config == replace(codes.config, plain_codes=True)


def test_a_file_is_recognised(parts, tmp_path):
    folder = written("transformers", parts, tmp_path)
    said = advice(folder / "pytorch_model.bin")
    assert "looks like a model of Janus; try: smalti convert janus --model" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nothing", "give --model FOLDER, or --tokenizer FOLDER"),
        ("settings", "config.json is missing: give the whole folder"),
        ("words", "has no tokenizer.json: give --words"),
        ("marks", "the text tokenizer has no '<begin_of_image>'"),
        ("norm", "use_qk_norm is not known"),
        ("act", "hidden_act must be one of gelu, gelu_pytorch_tanh, gelu_new, quick_gelu, got"),
        ("tower", "model_name must be one of siglip_large_patch16_384, siglip_so400m_patch14_384"),
        ("aligner", "projector_type must be mlp_gelu, got 'linear'"),
        ("gone", "such as code_proj.bias"),
        ("codes", "draws one of 31 codes, its tokenizer has 32"),
        ("nan", "code_proj.bias"),
    ],
)
def test_mistakes_are_named(parts, tmp_path, capsys, change, message):
    layout = "deepseek" if change in ("tower", "aligner") else "transformers"
    folder = written(layout, parts, tmp_path)
    told, state = json.loads(json.dumps(SETTINGS[layout])), official(layout, *parts)
    head = "model.generation_head.proj_out.bias"
    if change == "norm":
        told["vision_config"]["use_qk_norm"] = True
    if change == "act":
        told["vision_config"]["hidden_act"] = "relu"
    if change == "tower":
        told["vision_config"]["params"]["model_name"] = "other"
    if change == "aligner":
        told["aligner_config"]["params"]["projector_type"] = "linear"
    if change == "gone":
        del state[head]
    if change == "nan":
        state[head] = torch.full_like(state[head], torch.nan)
    if change == "codes":
        state["model.generation_embeddings.weight"] = torch.zeros(31, 4)
    if change == "words":
        (folder / "tokenizer.json").unlink()
    if change == "marks":
        text = (folder / "tokenizer.json").read_text()
        (folder / "tokenizer.json").write_text(text.replace("<begin_of_image>", "<begin>"))
    (folder / "config.json").write_text(json.dumps(told))
    if change == "settings":
        (folder / "config.json").unlink()
    write(state, folder / "pytorch_model.bin")
    given = [] if change == "nothing" else ["--model", str(folder)]
    with pytest.raises(SystemExit) as stop:
        main(["convert", "janus", *given, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()
