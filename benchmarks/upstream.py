"""Official code of other projects, imported from a checkout that is no part of this one.

Each function takes the folder of a checkout (or nothing, for transformers) and returns a record of
what `peers.py` runs, with random weights. What the code asks for and a machine may not have stands
here: two layers of timm, packages that only training scripts need, `.cuda()` without a GPU.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def checkout(folder: Path, stubs: Mapping[str, ModuleType] | None = None) -> Iterator[None]:
    """Imports come from a folder first, and what is imported from there is forgotten after: several
    projects call their packages `models` and `utils`. Stubs stand in for modules."""
    named = dict(stubs or {})
    before = {name: sys.modules.get(name) for name in named}
    sys.path.insert(0, str(folder))
    sys.modules.update(named)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        theirs = {name for name, module in sys.modules.items() if _lies_in(folder, module)}
        for name in theirs | named.keys():
            del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if module})


def _lies_in(folder: Path, module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    places = [getattr(module, "__file__", None) or ""]
    places += getattr(spec, "submodule_search_locations", None) or []
    return any(str(place).startswith(str(folder)) for place in places)


def stub(**names: Any) -> ModuleType:
    """A module that has these names."""
    module = ModuleType("stub")
    module.__dict__.update(names)
    return module


class Mlp(nn.Module):
    """timm's, as far as it is asked for: two linear layers with a GELU between."""

    def __init__(
        self, in_features: int, hidden_features: int, act_layer: Any = nn.GELU, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(in_features, hidden_features), act_layer()
        self.fc2, self.drop = nn.Linear(hidden_features, in_features), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """timm's block of a vision transformer, with fused attention, as far as it is asked for."""

    def __init__(
        self, dim: int, heads: int, ratio: float, *, norm_layer: Any, proj_drop: float, **_: Any
    ) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, norm_layer(dim), norm_layer(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = Mlp(dim, int(dim * ratio), drop=proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).unbind(2)
        h = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        x = x + self.proj(h.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


@dataclass(frozen=True)
class LlamaGen:
    """LlamaGen-B and VQ-16 (FoundationVision/LlamaGen)."""

    model: Any
    tokenizer: Any
    code: Any
    """The module `generate`."""

    def steps(self, labels: Tensor, guidance: float) -> Iterator[Tensor]:
        """One code of each image after another."""
        plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "sample_logits": True}
        rows, dtype = 2 * len(labels), self.model.tok_embeddings.weight.dtype
        self.model.setup_caches(rows, 257, dtype)
        both = torch.cat([labels, torch.full_like(labels, 1000)])
        at = torch.arange(1)
        with torch.no_grad():
            code = self.code.prefill(self.model, both, at, guidance, **plain)
        yield code
        while True:
            at = at + 1
            with torch.no_grad():
                code, _ = self.code.decode_one_token(
                    self.model, code.view(-1, 1), at, guidance, True, **plain
                )
            yield code

    def image(self, labels: Tensor, guidance: float) -> Tensor:
        plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "sample_logits": True}
        codes = self.code.generate(self.model, labels, 256, cfg_scale=guidance, **plain)
        with torch.no_grad():
            return self.tokenizer.decode_code(codes, [len(labels), 8, 16, 16])

    def loss(self, codes: Tensor, labels: Tensor) -> Tensor:
        return self.model(cond_idx=labels, idx=codes[:, :-1], targets=codes)[1]


def llamagen(folder: Path) -> LlamaGen:
    with checkout(folder):
        gpt = importlib.import_module("autoregressive.models.gpt")
        code = importlib.import_module("autoregressive.models.generate")
        vq = importlib.import_module("tokenizer.tokenizer_image.vq_model")
    model = gpt.GPT_B(vocab_size=16384, block_size=256, num_classes=1000, cls_token_num=1)
    nn.init.normal_(model.output.weight, std=0.02)
    return LlamaGen(model.eval(), vq.VQ_16().eval(), code)


def rar(folder: Path) -> Any:
    """RAR-B (bytedance/1d-tokenizer): its model."""
    stubs = {"modeling.modules": stub(BaseModel=nn.Module), "timm.layers": stub(Mlp=Mlp)}
    with checkout(folder, stubs | {"timm": stub()}):
        module = importlib.import_module("modeling.rar")
    settings = {"hidden_size": 768, "num_hidden_layers": 24, "num_attention_heads": 16}
    settings |= {"intermediate_size": 3072, "image_seq_len": 256, "condition_num_classes": 1000}
    generator = Settings(settings | {"dropout": 0.1, "attn_drop": 0.1})
    model = SimpleNamespace(generator=generator, vq_model=SimpleNamespace(codebook_size=1024))
    return module.RAR(SimpleNamespace(model=model)).eval()


class Settings(dict[str, Any]):
    """A dictionary whose entries are attributes too."""

    __getattr__ = dict.__getitem__


def rar_steps(model: Any, labels: Tensor, guidance: float) -> Iterator[Tensor]:
    """One code of each image after another, with guidance and keys kept."""
    with torch.no_grad():
        cond = model.preprocess_condition(labels, cond_drop_prob=0.0)
    both = torch.cat([cond, model.get_none_condition(cond)])
    ids = torch.zeros(len(labels), 0, dtype=torch.int64)
    model.enable_kv_cache()
    while True:
        with torch.no_grad():
            logits = model.forward_fn(torch.cat([ids, ids]), both, is_sampling=True)[:, -1]
            known, null = logits.float().chunk(2)
            probabilities = (null + guidance * (known - null)).softmax(-1)
            ids = torch.cat([ids, torch.multinomial(probabilities, 1)], 1)
        yield ids


@dataclass(frozen=True)
class VAR:
    """VAR-d16 and its tokenizer (FoundationVision/VAR)."""

    model: Any
    tokenizer: Any

    def image(self, labels: Tensor) -> Tensor:
        draw = self.model.autoregressive_infer_cfg
        return draw(len(labels), labels, cfg=1.5, top_k=900, top_p=0.95)

    def loss(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Of the codes of all scales; what is read is interpolated from them, as in training."""
        parts = list(codes.split([n * n for n in self.model.patch_nums], 1))
        with torch.no_grad():
            read = self.tokenizer.quantize.idxBl_to_var_input(parts)
        logits = self.model(labels, read)
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


def var(folder: Path) -> VAR:
    sides = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    with checkout(folder):
        models = importlib.import_module("models")
    share = {"share_quant_resi": 4, "v_patch_nums": sides, "test_mode": False}
    tokenizer = models.VQVAE(vocab_size=4096, z_channels=32, ch=160, **share)
    rates: dict[str, Any] = {
        "drop_path_rate": 0.1 * 16 / 24,
        "cond_drop_rate": 0.1,
        "norm_eps": 1e-6,
    }
    rates |= {"attn_l2_norm": True, "patch_nums": sides}
    with redirect_stdout(sys.stderr):  # it prints what it is
        model = models.VAR(tokenizer, 1000, 16, 1024, 16, **rates)
        model.init_weights(0.5, 1e-5, 0.02, -1)
    return VAR(model.eval(), tokenizer.eval().requires_grad_(False))


def mar(folder: Path, head_steps: int) -> Any:
    """MAR-B (LTH14/mar): its model."""
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    stubs = {"timm.models.vision_transformer": stub(Block=Block)}
    with checkout(folder, stubs | {"timm": stub(), "timm.models": stub()}):
        module = importlib.import_module("models.mar")
    sizes = {"diffloss_d": 6, "diffloss_w": 1024, "buffer_size": 64, "vae_embed_dim": 16}
    return module.mar_base(num_sampling_steps=str(head_steps), **sizes).eval()


def llama(rows: int, length: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Steps of transformers' Llama of LlamaGen-B's shape, with a static cache."""
    from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

    shape = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
    shape |= {"num_attention_heads": 12, "vocab_size": 16384, "max_position_embeddings": length}
    config = LlamaConfig(**shape)
    model, cache = (
        LlamaForCausalLM(config).eval().to(dtype),
        StaticCache(config, max_cache_len=length),
    )
    code, at = torch.zeros(rows, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    while True:
        with torch.no_grad():
            out = model(code, past_key_values=cache, cache_position=at, use_cache=True)
            code = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1)
        at = at + 1
        yield code
