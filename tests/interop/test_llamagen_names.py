"""Official names and settings of LlamaGen, and the sizes that its repository publishes."""

from dataclasses import replace

import pytest
import torch

from builders import models
from official_settings import gpt_config, vq_config
from smalti.interop.projects.llamagen import gpt_state, vq_state
from smalti.models.llamagen import SIZES, LlamaGen, LlamaGenConfig
from smalti.tokenizers.vqgan import VQGAN, vq8, vq16

CLASSES, TEXT = models()["llamagen"][1], models()["llamagen-text"][1]


def count(module: type[torch.nn.Module], config: object) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in module(config).parameters())


@pytest.mark.parametrize(
    ("size", "parameters", "feed_forward"),
    [
        ("B", 110_888_448, 2048),
        ("L", 342_910_976, 2816),
        ("XL", 774_699_520, 3584),
        ("XXL", 1_410_972_672, 4096),
        ("XXXL", 3_893_027_840, 6912),
        ("1B", 1_199_616_000, 5632),
        ("3B", 3_096_659_200, 8704),
        ("7B", 6_614_589_440, 11008),
    ],
)
def test_published_sizes(size, parameters, feed_forward):
    config = LlamaGenConfig(**SIZES[size])
    assert config.ffn_dim == feed_forward
    assert count(LlamaGen, config) == parameters


def test_published_text_model():
    config = LlamaGenConfig(classes=0, text_length=120, **SIZES["XL"])
    assert count(LlamaGen, config) == 777_678_080


@pytest.mark.parametrize(("config", "parameters"), [(vq16(), 71_883_403), (vq8(), 70_109_835)])
def test_published_tokenizers(config, parameters):
    assert count(VQGAN, config) == parameters


def test_gpt_settings():
    assert gpt_config({"dim": 768, "n_layer": 12, "n_head": 12}) == LlamaGenConfig()
    given = {
        "dim": 64, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "multiple_of": 32,
        "ffn_dim_multiplier": 1.5, "norm_eps": 1e-6, "rope_base": 500, "vocab_size": 128,
        "num_classes": 10, "block_size": 36, "cls_token_num": 1, "model_type": "c2i",
        "token_dropout_p": 0.3,
    }  # fmt: skip
    assert gpt_config(given) == LlamaGenConfig(
        grid=(6, 6), vocab=128, classes=10, layers=3, heads=4, kv_heads=2, dim=64,
        multiple_of=32, ffn_multiplier=1.5, norm_eps=1e-6, rope_base=500.0,
    )  # fmt: skip
    text = gpt_config(given | {"model_type": "t2i", "cls_token_num": 120, "caption_dim": 48})
    assert (text.classes, text.text_length, text.text_dim, text.prefix) == (0, 120, 48, 120)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_layers": 3}, "unknown settings n_layers .*n_layer"),
        ({"block_size": 37}, "block_size must be a square number, got 37"),
        ({"model_type": "x2i"}, "must be 'c2i' or 't2i', got 'x2i'"),
        ({"cls_token_num": 4}, "cls_token_num of a c2i model must be 1, got 4"),
    ],
)
def test_bad_gpt_settings(given, message):
    with pytest.raises(ValueError, match=message):
        gpt_config(given)


def test_vq_settings():
    assert vq_config({}) == vq16()
    widths = [1, 2, 2, 4]
    eight = vq_config({"encoder_ch_mult": widths, "decoder_ch_mult": widths}, (512, 512))
    assert eight == vq8(512)
    given = {
        "codebook_size": 64, "codebook_embed_dim": 4, "codebook_l2_norm": False, "z_channels": 16,
        "dropout_p": 0.25, "commit_loss_beta": 0.5,
    }  # fmt: skip
    assert vq_config(given, (32, 64), ch=32, num_res_blocks=1) == replace(
        vq16(), size=(32, 64), channels=32, blocks=1, latent=16, vocab=64, dim=4, l2_norm=False,
        dropout=0.25,
    )  # fmt: skip
    uneven = vq_config({"encoder_ch_mult": [1, 1, 2, 4, 4]})
    assert uneven.multipliers == (1, 1, 2, 4, 4)
    assert uneven.decoder_multipliers == (1, 1, 2, 2, 4)
    with pytest.raises(ValueError, match=r"as many as multipliers \(1, 2\), got \(1, 1, 2, 2, 4\)"):
        vq_config({"encoder_ch_mult": [1, 2]})
    with pytest.raises(ValueError, match="unknown settings z_channel "):
        vq_config({"z_channel": 3})


def official(names: dict[str, str]) -> dict[str, torch.Tensor]:
    """Tensors under official names, each holding its own number."""
    return {name: torch.tensor(float(i)) for i, name in enumerate(names)}


def test_gpt_names():
    shared = {"tok_embeddings.weight": "tok_embeddings.weight", "output.weight": "head.proj.weight"}
    names = shared | {"cls_embedding.embedding_table.weight": "cls_embedding.weight"}
    given = official(names)
    found = gpt_state(given | {"freqs_cis": torch.zeros(3)}, CLASSES)
    assert found == {ours: given[name] for name, ours in names.items()}
    names = shared | {
        "cls_embedding.uncond_embedding": "text_prefix.uncond",
        "cls_embedding.cap_proj.fc1.weight": "text_prefix.fc1.weight",
        "cls_embedding.cap_proj.fc2.weight": "text_prefix.fc2.weight",
    }
    given = official(names)
    assert gpt_state(given, TEXT) == {ours: given[name] for name, ours in names.items()}
    with pytest.raises(ValueError, match="weights are of a t2i model, the config is of a c2i"):
        gpt_state(given, CLASSES)
    with pytest.raises(ValueError, match="weights are of a c2i model, the config is of a t2i"):
        gpt_state({}, TEXT)


def test_vq_names():
    given = official({"quantize.embedding.weight": "", "quantize.codebook_used": ""})
    assert list(vq_state(given)) == ["quantize.embedding.weight"]
