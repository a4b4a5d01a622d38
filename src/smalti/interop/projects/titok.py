"""TiTok, TA-TiTok and their generators (bytedance/1d-tokenizer, commit 942a96f).

yucornetto has a repository for each TiTok and generator, turkeyju for each TA-TiTok,
fun-research/TiTok flat .bin files.
What a position adds to learned tokens that are equal for all pictures is added here once. One table
embeds codes, the mask, classes and the null class. A BERT's pictures are all of one segment, whose
row is added to the positions, and its tensors begin with "model.", those of a U-ViT do not. Moving
averages of how often codes are used are dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.interop.pickles import Checkpoint
from smalti.interop.project import Part, Project
from smalti.interop.projects.maskgit_vqgan import maskgit_state
from smalti.interop.saved import Dtype, Repository
from smalti.interop.tensor_shapes import count, shape
from smalti.models.titok import TiTokGenerator, TiTokGeneratorConfig
from smalti.pipeline.sampling import Sampling
from smalti.tokenizers.kinds import tokenizer_of
from smalti.tokenizers.titok import (
    BASE,
    LARGE,
    SMALL,
    ProxyConfig,
    TiTokConfig,
    TokensConfig,
    TrunkConfig,
)
from smalti.tokenizers.titok_vae import TiTokVAEConfig

NAME = "TiTok"
HEADS = {trunk.dim: trunk.heads for trunk in (SMALL, BASE, LARGE)}
"""Attention heads of a tokenizer's published widths."""
GENERATOR_HEADS = {768: 16, 1024: 16}
"""The same of a generator's."""
LATER = 8192, 64
"""Codes, and numbers of each, of tokenizers whose codes are published without being normalised."""


def ramp(scale: float, steps: int) -> tuple[float, ...]:
    """Upstream's linear guidance, whose 0 is off and with which it begins, in ours."""
    return tuple(1 + scale * step / steps for step in range(steps))


COOLED = {"temperature": 1.3, "final_temperature": 0.5}
"""The annealed softmax temperature with which upstream measures all of its generators."""


def short(scale: float, noise: float, steps: int = 8) -> Sampling:
    """How models of few tokens are drawn, in upstream's numbers."""
    return Sampling.of(
        guidance=1 + scale, schedule="list", scales=ramp(scale, steps),
        steps=steps, reveal="arccos", confidence=noise, **COOLED,
    )  # fmt: skip


PUBLISHED = {
    32: short(4.5, 9.5),
    64: short(3.0, 11.0),
    128: Sampling.of(
        guidance=6.9,
        schedule="power-cosine",
        power=3.0,
        steps=64,
        reveal="arccos",
        confidence=2.8,
        **COOLED,
    ),
}
"""How published generators are drawn for their FID, by their tokens."""


@dataclass(frozen=True)
class TiTokFiles:
    """A tokenizer of TiTok or TA-TiTok and a generator; without --model, the tokenizer alone.

    smalti convert titok --tokenizer tokenizer_titok_l32.bin --model generator_titok_l32.bin \\
        --out titok-l32
    """

    tokenizer: Path
    """Checkpoint of the tokenizer: .safetensors, .bin, .pt or .pth."""
    model: Path | None = None
    """Checkpoint of the generator."""
    l2_norm: bool | None = None
    """Whether codes are normalised; default: unless they are as those of later releases and of
    TA-TiTok, 8192 of 64 numbers."""
    text_model: str = TokensConfig.text_model
    """Hub id or folder of the CLIP whose features of texts the decoder of a TA-TiTok reads."""
    tokenizer_heads: int | None = None
    """Attention heads of the tokenizer; needed for sizes that were never published."""
    heads: int | None = None
    """The same of the generator."""
    dtype: Dtype = "stored"
    """Of the generator's weights in the pipeline."""


# -- tokenizers


def _shape(checkpoint: Checkpoint, name: str, axes: int) -> tuple[int, ...]:
    return shape(checkpoint, name, axes, NAME)


def heads_of(
    checkpoint: Checkpoint, dim: int, known: Mapping[int, int], given: int | None, option: str
) -> int:
    """Attention heads of a width. Raises ValueError for one that was never published."""
    if not given and dim not in known:
        raise ValueError(f"{checkpoint.path}: no published model has width {dim}; give {option}")
    return given or known[dim]


def trunk_of(checkpoint: Checkpoint, side: str, heads: int | None) -> TrunkConfig:
    """The ViT of the encoder or the decoder."""
    dim = _shape(checkpoint, f"{side}.ln_pre.weight", 1)[0]
    layers = count(checkpoint, f"{side}.transformer.")
    return TrunkConfig(layers, heads_of(checkpoint, dim, HEADS, heads, "--tokenizer-heads"), dim)


def proxy_of(checkpoint: Checkpoint) -> ProxyConfig:
    """Codes of MaskGIT-VQGAN that the decoder predicts. Raises ValueError for a file of the first
    stage of training, which has no decoder of them."""
    if "decoder.ffn.2.weight" not in checkpoint.state:
        return ProxyConfig()
    if "pixel_decoder.conv_in.weight" not in checkpoint.state:
        raise ValueError(f"{checkpoint.path} predicts codes and has no pixel_decoder of them")
    vocab, dim = _shape(checkpoint, "pixel_quantize.embedding.weight", 2)
    levels = range(count(checkpoint, "pixel_decoder.up."))
    conv = "pixel_decoder.up.{}.block.0.conv1.weight"
    widths = [_shape(checkpoint, conv.format(i), 4)[0] for i in levels]
    channels = math.gcd(*widths)
    multipliers = tuple(width // channels for width in widths)
    return ProxyConfig(vocab, dim, channels, multipliers, count(checkpoint, "pixel_decoder.mid."))


def tokens_sizes(checkpoint: Checkpoint, options: TiTokFiles) -> TokensConfig:
    """The config of a tokenizer's checkpoint.

    Raises ValueError if the tensors are not those of one, or if sizes cannot be known.
    """
    proxy, state = proxy_of(checkpoint), checkpoint.state
    patch = _shape(checkpoint, "encoder.patch_embed.weight", 4)[-1]
    side = _side(checkpoint, "encoder.positional_embedding")
    out = _shape(checkpoint, "encoder.conv_out.weight", 4)[0]
    dim = _shape(checkpoint, "decoder.decoder_embed.weight", 2)[1]
    shown = side * patch // _side(checkpoint, "decoder.positional_embedding")
    text = "decoder.text_guidance_proj.weight"
    length, text_dim = 0, TokensConfig.text_dim
    if text in state:
        text_dim = _shape(checkpoint, text, 2)[1]
        length = _shape(checkpoint, "decoder.text_guidance_positional_embedding", 2)[0]
    known: dict[str, Any] = {
        "size": (side * patch, side * patch),
        "patch": patch,
        "decoder_patch": 0 if shown == patch else shown,
        "tokens": _shape(checkpoint, "latent_tokens", 2)[0],
        "dim": dim,
        "encoder": trunk_of(checkpoint, "encoder", options.tokenizer_heads),
        "decoder": trunk_of(checkpoint, "decoder", options.tokenizer_heads),
        "scrambled": bool(proxy.vocab),
        "proxy": proxy,
        "text_length": length,
        "text_dim": text_dim,
        "text_model": options.text_model,
    }
    if "quantize.embedding.weight" not in state and out == 2 * dim:
        return TiTokVAEConfig(**known)
    vocab = _shape(checkpoint, "quantize.embedding.weight", 2)[0]
    norm = (vocab, dim) != LATER if options.l2_norm is None else options.l2_norm
    return TiTokConfig(**known, vocab=vocab, l2_norm=norm)


def _side(checkpoint: Checkpoint, name: str) -> int:
    """Patches along a side of a square. Raises ValueError if they make none."""
    cells = _shape(checkpoint, name, 2)[0] - 1
    side = math.isqrt(max(cells, 0))
    if not side or side * side != cells:
        raise ValueError(f"{checkpoint.path}: pictures must be squares, got {cells} in {name}")
    return side


TOKENIZER_NAMES = (
    (r"^encoder\.patch_embed\.", "encoder.patches."),
    (r"\.transformer\.", ".trunk.layers."),
    (r"\.ln_1\.", ".norm1."),
    (r"\.ln_2\.", ".norm2."),
    (r"\.attn\.in_proj_", ".wqkv."),
    (r"\.attn\.out_proj\.", ".wo."),
    (r"\.mlp\.c_fc\.", ".feed_forward.w1."),
    (r"\.mlp\.c_proj\.", ".feed_forward.w2."),
    (r"\.ln_pre\.", ".trunk.norm_in."),
    (r"\.ln_post\.", ".trunk.norm_out."),
    (r"^encoder\.conv_out\.", "encoder.out."),
    (r"^decoder\.decoder_embed\.", "decoder.embed."),
    (r"^decoder\.latent_token_positional_embedding$", "decoder.token_positions"),
    (r"^decoder\.text_guidance_proj\.", "decoder.text_embed."),
    (r"^decoder\.text_guidance_positional_embedding$", "decoder.text_positions"),
    (r"^pixel_quantize\.embedding\.", "proxy_codes."),
)
"""Parts of official names of a tokenizer and of ours, in this order."""

SUMS = ("latent_tokens", "class_embedding", "positional_embedding", "mask_token")
"""What is added up, and so has no name of its own."""
LATENT_POSITIONS = "encoder.latent_token_positional_embedding"
"""The same, of the tokens of the encoder."""


def renamed(name: str, names: Sequence[tuple[str, str]]) -> str:
    """Our name of an official one."""
    for theirs, ours in names:
        name = re.sub(theirs, ours, name)
    return name


def tokens_state(state: Mapping[str, Tensor], config: TokensConfig) -> dict[str, Tensor]:
    """Our state dict of an official tokenizer's."""
    head = "decoder.predict." if config.proxy.vocab else "decoder.pixels."
    number = r"^decoder\.ffn\." + ("" if config.proxy.vocab else r"0\.")
    names, found = (*TOKENIZER_NAMES, (number, head)), dict[str, Tensor]()
    for name, tensor in state.items():
        last = name.rpartition(".")[2]
        if last in (*SUMS, "embed_prob") or name == LATENT_POSITIONS:
            continue
        linear = name.startswith(("encoder.conv_out.", "decoder.ffn.")) and tensor.dim() == 4
        found[renamed(name, names)] = tensor.flatten(1) if linear else tensor
    encoder, decoder = (state[f"{side}.positional_embedding"] for side in ("encoder", "decoder"))
    cells = state["decoder.mask_token"].squeeze(0).expand(len(decoder) - 1, -1)
    found["decoder.positions"] = decoder + torch.cat((state["decoder.class_embedding"], cells))
    first = encoder[:1] + state["encoder.class_embedding"]
    found["encoder.positions"] = torch.cat((first, encoder[1:]))
    found["encoder.tokens"] = state["latent_tokens"] + state[LATENT_POSITIONS]
    return maskgit_state(found)


# -- generators

BERT_NAMES = (
    (r"^embeddings\.LayerNorm\.", "trunk.norm."),
    (r"^encoder\.layer\.", "trunk.layers."),
    (r"\.attention\.output\.dense\.", ".wo."),
    (r"\.attention\.output\.LayerNorm\.", ".norm1."),
    (r"\.intermediate\.dense\.", ".feed_forward.w1."),
    (r"\.output\.dense\.", ".feed_forward.w2."),
    (r"\.output\.LayerNorm\.", ".norm2."),
    (r"^lm_head\.", "head.proj."),
)
"""Parts of official names of a BERT and of ours, in this order."""

UVIT_NAMES = (
    (r"^in_blocks\.", "trunk.first."),
    (r"^mid_block\.", "trunk.middle."),
    (r"^out_blocks\.", "trunk.second."),
    (r"^norm\.", "trunk.norm."),
    (r"\.skip_linear\.", ".join."),
    (r"\.attn\.qkv\.", ".wqkv."),
    (r"\.attn\.proj\.", ".wo."),
    (r"\.mlp\.fc(\d)\.", r".feed_forward.w\1."),
    (r"^lm_head\.", "head.proj."),
)
"""The same of a U-ViT."""

WORDS, UVIT_WORDS = "embeddings.word_embeddings.weight", "embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
SEGMENTS = "embeddings.token_type_embeddings.weight"
EMBEDDINGS = (WORDS, UVIT_WORDS, POSITIONS, SEGMENTS, "pos_embed")
"""What of a generator is taken apart or added up."""
BERT_FFN = "encoder.layer.0.intermediate.dense.weight"


def generator_sizes(checkpoint: Checkpoint, heads: int | None = None) -> TiTokGeneratorConfig:
    """The config of a generator's checkpoint.

    `heads` is needed for sizes that were never published. Raises ValueError if it is missing, or if
    the tensors are not those of such a generator.
    """
    uvit = UVIT_WORDS in checkpoint.state
    vocab, dim = _shape(checkpoint, "lm_head.weight", 2)
    rows = _shape(checkpoint, UVIT_WORDS if uvit else WORDS, 2)[0]
    if rows < vocab + 3:
        raise ValueError(
            f"{checkpoint.path} embeds {rows} codes, mask and classes, for {vocab} codes"
        )
    if uvit:
        positions = _shape(checkpoint, "pos_embed", 3)[1]
        layers, first = 2 * count(checkpoint, "in_blocks."), "mid_block.mlp.fc1.weight"
    else:
        positions = _shape(checkpoint, POSITIONS, 2)[0]
        layers, first = count(checkpoint, "encoder.layer."), BERT_FFN
    return TiTokGeneratorConfig(
        grid=(1, positions - 1),
        vocab=vocab,
        classes=rows - vocab - 2,
        network="uvit" if uvit else "vit",
        layers=layers,
        heads=heads_of(checkpoint, dim, GENERATOR_HEADS, heads, "--heads"),
        dim=dim,
        ffn_dim=_shape(checkpoint, first, 2)[0],
    )


def generator_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official generator's, without the "model." of a BERT."""
    uvit, vocab = UVIT_WORDS in state, len(state["lm_head.weight"])
    words = state[UVIT_WORDS if uvit else WORDS]
    found = {
        "tok_embeddings.weight": words[: vocab + 1],
        "cls_embedding.weight": words[vocab + 1 :],
    }
    if uvit:
        found["pos"] = state["pos_embed"].squeeze(0)
    else:
        found["pos"] = state[POSITIONS] + state[SEGMENTS][0]
    for name, tensor in state.items():
        if name not in EMBEDDINGS and ".attention.self." not in name:
            found[renamed(name, UVIT_NAMES if uvit else BERT_NAMES)] = tensor
        if ".attention.self.query." in name:
            parts = (state[name.replace(".query.", f".{part}.")] for part in ("key", "value"))
            joined = name.replace(".attention.self.query.", ".wqkv.")
            found[renamed(joined, BERT_NAMES)] = torch.cat((tensor, *parts))
    return found


# -- the record


def _generator(
    checkpoint: Checkpoint, options: TiTokFiles, codes: TokensConfig
) -> TiTokGeneratorConfig:
    config = generator_sizes(checkpoint, options.heads)
    if config.spec != codes.spec:
        raise ValueError(
            f"{checkpoint.path} draws {config.spec.positions} codes {config.spec.words}; the "
            f"tokenizer has {codes.spec.positions} {codes.spec.words}"
        )
    return config


TOKENIZER = Part(
    title="a TiTok tokenizer",
    marks=("latent_tokens", "encoder.latent_token_positional_embedding"),
    module=tokenizer_of,
    config=tokens_sizes,
    state=lambda state, config, _: tokens_state(state, config),
)

MODEL = Part(
    title="a TiTok generator",
    marks=("embeddings.", "lm_head."),
    lacks=("target_aware_pos_embed",),
    module=TiTokGenerator,
    config=_generator,
    state=lambda state, *_: generator_state(state),
)

RELEASED, SAFE = ("l32", "b64", "s128"), "model.safetensors"
ALONE = (
    *(f"yucornetto/tokenizer_titok_{name}_vq8k_imagenet" for name in ("bl64", "bl128", "sl256")),
    *(f"yucornetto/tokenizer_titok_{name}_vae_c16_imagenet" for name in ("ll32", "bl64", "bl128")),
    *(f"turkeyju/tokenizer_tatitok_{name}_vq" for name in ("bl32", "bl64", "bl128")),
    *(f"turkeyju/tokenizer_tatitok_{name}_vae" for name in ("bl32", "bl64", "sl128")),
)
"""Repositories of tokenizers whose codes no generator here learned."""
PROJECT = Project(
    options=TiTokFiles,
    tokenizer=TOKENIZER,
    alone=lambda codes, *_: codes,
    model=MODEL,
    fit=lambda codes, _: codes,
    sampling=lambda config: PUBLISHED.get(config.spec.positions, PUBLISHED[32]),
    repositories={
        f"yucornetto/generator_titok_{name}_imagenet": Repository(
            (SAFE,), (SAFE,), f"yucornetto/tokenizer_titok_{name}_imagenet"
        )
        for name in RELEASED
    }
    | {f"yucornetto/tokenizer_titok_{name}_imagenet": Repository((SAFE,)) for name in RELEASED}
    | {name: Repository((SAFE,)) for name in ALONE},
)
