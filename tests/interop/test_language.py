"""Language models of transformers: small random ones as it saves them, and what is refused."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smalti.interop.language import config_of, load_language
from smalti.models.language import Language, tiny
from smalti.nn.llama import Place

transformers: Any = pytest.importorskip("transformers", reason="smalti[text] is missing")

SIZES = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": None}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"num_key_value_heads": 2, "rms_norm_eps": 1e-6}),
    "llama-biased": ("Llama", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 2, "rope_theta": 1e6}),
    "qwen2-small": ("Qwen2", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-wide": ("Llama", {"num_key_value_heads": 2, "head_dim": 12}),
    "qwen2-wide": ("Qwen2", {"num_key_value_heads": 2, "head_dim": 12}),
    "gemma": ("Gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    "phi": ("Phi", {}),
    "phi-normed": ("Phi", {"qk_layernorm": True, "partial_rotary_factor": 1.0}),
}


def made(name: str):
    """A model of transformers with random weights, also where it begins with ones and zeros."""
    kind, more = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES | more)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """(model, folder), of several shards."""
    model = made(request.param)
    model.save_pretrained(tmp_path, max_shard_size="12KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    return model, tmp_path


def places(model: Language, mask: torch.Tensor) -> Place:
    """Rows that begin with padding where `mask` (B, n) is False."""
    n = mask.shape[1]
    turns = model.turns((mask.cumsum(1) - 1).clamp(min=0))
    seen = torch.ones(n, n, dtype=torch.bool).tril() & mask[:, None]
    return Place(torch.arange(n), n, turns, seen[:, None] | torch.eye(n).bool(), False, True)


@torch.no_grad()
def test_equals_transformers(case):
    theirs, folder = case
    ours = load_language(folder)
    ids, mask = torch.randint(48, (3, 9)), torch.arange(9) >= torch.tensor([[0], [2], [5]])
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=mask.long(), position_ids=position_ids).logits
    logits = ours.logits(ours(ours.embed(ids), places(ours, mask)))
    torch.testing.assert_close(logits[mask], expected[mask], rtol=0, atol=2e-5)


@torch.no_grad()
def test_step_by_step_equals_the_whole(case):
    ours = load_language(case[1])
    ids, mask = torch.randint(48, (2, 7)), torch.arange(7) >= torch.tensor([[0], [2]])
    whole = ours(ours.embed(ids), places(ours, mask))
    cache, parts = ours.cache(2, 7), []
    for start, end in ((0, 4), (4, 5), (5, 7)):
        rows, place = slice(start, end), places(ours, mask)
        assert place.rotation is not None and place.mask is not None
        here = Place(
            torch.arange(start, end), end, place.rotation[:, rows],
            place.mask[:, :, rows, :end], False, True,
        )  # fmt: skip
        parts.append(ours(ours.embed(ids[:, rows]), here, cache))
    torch.testing.assert_close(torch.cat(parts, 1)[mask], whole[mask], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("swin", "biased"), [(False, False), (True, True)])
@torch.no_grad()
def test_layers_of_chameleon(swin, biased, tmp_path):
    """Of the larger model the norms stand behind attention and feed-forward."""
    torch.manual_seed(0)
    codec = {"embed_dim": 8, "num_embeddings": 4, "latent_channels": 8, "resolution": 8}
    codec |= {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1}
    names = {"<image>": 9, **{f"IMGIMG{letter}Z": 4 + i for i, letter in enumerate("ABCD")}}
    config = transformers.ChameleonConfig(
        **SIZES,
        num_key_value_heads=2,
        swin_norm=swin,
        attention_bias=biased,
        vq_config=codec,
        vocabulary_map=names,
    )
    theirs = transformers.ChameleonForConditionalGeneration(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    ours, ids = load_language(tmp_path), torch.randint(10, 48, (2, 7))
    assert ours.config.order == ("swin" if swin else "pre")
    h = ours(ours.embed(ids), places(ours, torch.ones_like(ids).bool()))
    expected = theirs.model(ids).last_hidden_state
    torch.testing.assert_close(h, expected, rtol=0, atol=2e-5)


def test_in_another_dtype(tmp_path):
    made("qwen2").save_pretrained(tmp_path)
    assert load_language(tmp_path).norm.weight.dtype == torch.float32
    assert load_language(tmp_path, torch.bfloat16).norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "lama"}, "model_type 'lama' is not known; did you mean 'llama'?"),
        ({"model_type": "bert"}, "'bert' is not known .known are llama, qwen2, gemma, phi"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_type must be default, got 'llama3'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_type must be default, got 'linear'"),
        ({"hidden_act": "relu"}, "the function of a llama cannot be 'relu'"),
        ({"mlp_bias": True}, "mlp_bias is not known"),
        ({"hidden_size": None}, "hidden_size of a llama is missing"),
        ({"model_type": "gemma"}, "head_dim of a gemma is missing"),
    ],
)
def test_settings_that_are_not_known(changes, words):
    with pytest.raises(ValueError, match=f"^config.json: .*{words}"):
        config_of(SIZES | {"model_type": "llama"} | changes)


def test_old_files_name_positions_otherwise():
    old = config_of(SIZES | {"model_type": "llama", "rope_theta": 5e5})
    assert old == config_of(SIZES | {"model_type": "llama", "rope_parameters": {"rope_theta": 5e5}})
    assert old.rope_base == 5e5
    assert config_of(SIZES | {"model_type": "phi", "hidden_act": "gelu_new"}).turned == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("model.norm.weight"), "1 tensors missing, such as norm.weight"),
        (lambda s: s.pop("model.layers.1.self_attn.k_proj.weight"), "such as layers.1.attention"),
        (lambda s: s["model.norm.weight"].fill_(torch.nan), "model.norm.weight"),
        (lambda s: s.update(extra=torch.ones(2)), "extra is no part of a llama"),
        (
            lambda s: s.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}),
            "model.norm.weight holds torch.int8, not weights",
        ),
        (
            lambda s: s.update({"lm_head.weight": torch.ones(9, 32)}),
            r"lm_head.weight has shape \(9, 32\), its settings ask for \(48, 32\)",
        ),
        (
            lambda s: s.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}),
            "q_proj.bias is no part of a llama of these settings",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, words):
    made("llama").save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"{tmp_path}: .*{words}"):
        load_language(tmp_path)


def test_no_folder_of_a_model(tmp_path):
    with pytest.raises(ValueError, match="is no folder with a config.json"):
        load_language(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SIZES | {"model_type": "llama"}))
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_language(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, "dim must be a multiple of heads 3, got 32"),
        ({"kv_heads": 3}, "heads must be a multiple of kv_heads 3"),
        ({"turned": 1.5}, "turned must give an even part of heads 16 wide, got 1.5"),
        ({"turned": 0.2}, "turned must give an even part"),
        ({"tied": True, "head_bias": True}, "logits have no bias where one table"),
        ({"order": "post"}, "order must be one of pre, swin, parallel, got 'post'"),
    ],
)
def test_configurations_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(**changes)
