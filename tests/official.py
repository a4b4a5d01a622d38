"""Files as their projects publish them, made of small models of ours."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from smalti.interop.projects.llamagen import GPT_NAMES
from smalti.interop.projects.open_magvit2 import NAMES
from smalti.models.hart import HART, HARTConfig
from smalti.models.ibq import IBQ
from smalti.models.infinity import Infinity
from smalti.models.mar import MAR
from smalti.models.maskbit import MaskBit
from smalti.models.meissonic import Meissonic
from smalti.models.open_magvit2 import OpenMAGVIT2
from smalti.models.rar import RAR
from smalti.models.titok import TiTokGenerator
from smalti.models.var import VAR
from smalti.tokenizers.ibq import IBQTokenizer
from smalti.tokenizers.infinity import InfinityVAE, InfinityVAEConfig
from smalti.tokenizers.kl_vae import KLVAE
from smalti.tokenizers.maskbit import MaskBitVQGAN
from smalti.tokenizers.maskgit_vqgan import MaskGITVQGAN
from smalti.tokenizers.multiscale_vqvae import MultiScaleVQVAE
from smalti.tokenizers.titok import TokensTokenizer

OFFICIAL = {ours: theirs for theirs, ours in GPT_NAMES.items()}


def official(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of one of our modules under official names."""
    state = module.state_dict()
    if isinstance(module, RAR):
        return official_rar(state)
    if isinstance(module, MAR):
        return official_mar(state)
    if isinstance(module, VAR):
        return official_var(state, module.sizes)
    if isinstance(module, HART):
        return official_hart(state, module.config)
    if isinstance(module, MultiScaleVQVAE):
        state.pop("quantize.rest_std", None)  # HART's, which no file has
        return official_vae(state, len(module.config.multipliers))
    if isinstance(module, KLVAE | IBQTokenizer):
        return official_conv(state, len(module.config.multipliers))
    if isinstance(module, IBQ):
        return official_ibq(state)
    if isinstance(module, Infinity):
        return official_infinity(state)
    if isinstance(module, InfinityVAE):
        return official_infinity_vae(state, module.config)
    if isinstance(module, MaskBit):
        return official_maskbit(state, module.groups.widths[0])
    if isinstance(module, MaskBitVQGAN):
        return official_maskbit_vqgan(state, module.config.bits)
    if isinstance(module, MaskGITVQGAN):
        return {k.replace(".upsample.conv.", ".upsample_conv."): t for k, t in state.items()}
    if isinstance(module, Meissonic):
        return official_meissonic(state, module.config.joint_layers)
    if isinstance(module, OpenMAGVIT2):
        renames = {f"^{re.escape(ours)}": theirs for theirs, ours in NAMES.items()}
        return renamed(state, renames)
    if isinstance(module, TokensTokenizer):
        return official_titok(state)
    if isinstance(module, TiTokGenerator):
        return official_titok_generator(state)
    return {OFFICIAL.get(name, name): tensor for name, tensor in state.items()}


def official_rar(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With rows that nothing reads, of ones: positions, steps, and the embedding of a mask."""
    start = state.pop("start")
    dim = len(start)

    def table(*parts: Tensor | int) -> Tensor:
        return torch.cat([start.new_ones(p, dim) if isinstance(p, int) else p for p in parts])

    begin, cells, targets, steps = (
        state.pop(name)
        for name in ("start_pos", "cell_pos.weight", "target_pos.weight", "steps.weight")
    )
    codes, classes = state.pop("tok_embeddings.weight"), state.pop("cls_embedding.weight")
    found = {
        "cls_token": start.view(1, 1, dim),
        "pos_embed": table(begin, cells, 1022)[None],
        "target_aware_pos_embed": table(2, targets, 1022)[None],
        "timesteps_embeddings": table(steps, 99)[None],
        "embeddings.weight": table(codes, 1, classes),
    }
    renames = {
        r"^layers\.": "blocks.", r"^adaln\.": "adaln_before_head.adaLN_modulation.1.",
        r"\.adaln\.": ".adaLN_modulation.1.", r"^head\.proj\.": "lm_head.",
        r"\.attention\.wqkv\.": ".attn.qkv.", r"\.attention\.wo\.": ".attn.proj.",
        r"\.attention\.": ".attn.", r"\.feed_forward\.w(\d)": r".mlp.fc\1",
    }  # fmt: skip
    return found | renamed(state, renames)


def official_titok(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With what is added to positions apart from them, a quarter of it, and 1x1 convolutions."""
    found = dict[str, Tensor]()
    for side in ("encoder", "decoder"):
        positions = state.pop(f"{side}.positions")
        found[f"{side}.class_embedding"] = positions[:1] / 4
        if side == "decoder":
            found["decoder.mask_token"] = torch.ones_like(positions[None, :1]) / 4
        rest = positions[1:] if side == "encoder" else positions[1:] - 0.25
        found[f"{side}.positional_embedding"] = torch.cat((positions[:1] * 0.75, rest))
    tokens = state.pop("encoder.tokens")
    found |= {
        "latent_tokens": tokens / 4,
        "encoder.latent_token_positional_embedding": tokens * 0.75,
    }
    for name in ("encoder.out", "decoder.pixels", "decoder.predict.0", "decoder.predict.2"):
        if f"{name}.weight" in state:
            state[f"{name}.weight"] = state[f"{name}.weight"][..., None, None]
    renames = {
        r"^encoder\.patches\.": "encoder.patch_embed.", r"\.trunk\.layers\.": ".transformer.",
        r"\.norm([12])\.(?=[wb]\w+$)": r".ln_\1.", r"^(pixel.*)\.ln_([12])\.": r"\1.norm\2.",
        r"\.wqkv\.": ".attn.in_proj_", r"\.wo\.": ".attn.out_proj.",
        r"\.feed_forward\.w1\.": ".mlp.c_fc.", r"\.feed_forward\.w2\.": ".mlp.c_proj.",
        r"\.trunk\.norm_in\.": ".ln_pre.", r"\.trunk\.norm_out\.": ".ln_post.",
        r"^encoder\.out\.": "encoder.conv_out.", r"^decoder\.embed\.": "decoder.decoder_embed.",
        r"^decoder\.token_positions$": "decoder.latent_token_positional_embedding",
        r"^decoder\.text_embed\.": "decoder.text_guidance_proj.",
        r"^decoder\.text_positions$": "decoder.text_guidance_positional_embedding",
        r"^proxy_codes\.": "pixel_quantize.embedding.", r"^decoder\.predict\.": "decoder.ffn.",
        r"^decoder\.pixels\.": "decoder.ffn.0.", r"\.upsample\.conv\.": ".upsample_conv.",
    }  # fmt: skip
    return found | renamed(state, renames)


def official_titok_generator(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With one table of codes, mask and classes; of a BERT queries, keys and values by themselves,
    and the positions of its one segment, of which half is in the table of segments."""
    words = torch.cat((state.pop("tok_embeddings.weight"), state.pop("cls_embedding.weight")))
    positions = state.pop("pos")
    if "trunk.middle.wo.weight" in state:
        renames = {
            r"^trunk\.first\.": "in_blocks.", r"^trunk\.middle\.": "mid_block.",
            r"^trunk\.second\.": "out_blocks.", r"^trunk\.norm\.": "norm.",
            r"\.join\.": ".skip_linear.", r"\.wqkv\.": ".attn.qkv.", r"\.wo\.": ".attn.proj.",
            r"\.feed_forward\.w(\d)": r".mlp.fc\1", r"^head\.proj\.": "lm_head.",
        }  # fmt: skip
        found = {"embeddings.weight": words, "pos_embed": positions[None]}
        return found | renamed(state, renames)
    half = torch.full_like(positions[:1], 0.5)
    found = {
        "embeddings.word_embeddings.weight": words,
        "embeddings.position_embeddings.weight": positions - 0.5,
        "embeddings.token_type_embeddings.weight": torch.cat((half, half - 9)),
    }
    for name in [name for name in state if ".wqkv." in name]:
        parts = state.pop(name).chunk(3)
        for part, tensor in zip(("query", "key", "value"), parts, strict=True):
            found[name.replace(".wqkv.", f".attention.self.{part}.")] = tensor
    renames = {
        r"^trunk\.norm\.": "embeddings.LayerNorm.", r"^trunk\.layers\.": "encoder.layer.",
        r"\.wo\.": ".attention.output.dense.", r"\.norm1\.": ".attention.output.LayerNorm.",
        r"\.feed_forward\.w1\.": ".intermediate.dense.", r"^head\.proj\.": "lm_head.",
        r"\.feed_forward\.w2\.": ".output.dense.", r"\.norm2\.": ".output.LayerNorm.",
    }  # fmt: skip
    return wrapped(renamed(found | state, renames), "model")


def official_mar(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tables with an axis for the batch; the null class is a tensor of its own."""
    classes = state.pop("cls_embedding.weight")
    found = {"class_emb.weight": classes[:-1], "fake_latent": classes[-1:]}
    tables = {"encoder_pos": "encoder_pos_embed_learned", "mask_token": "mask_token"}
    tables |= {"decoder_pos": "decoder_pos_embed_learned"}
    tables |= {"head_pos": "diffusion_pos_embed_learned"}
    found |= {official: state.pop(ours)[None] for ours, official in tables.items()}
    renames = {
        r"^(..coder)\.layers\.": r"\1_blocks.", r"^(..coder)\.norm\.": r"\1_norm.",
        r"\.attention\.wqkv\.": ".attn.qkv.", r"\.attention\.wo\.": ".attn.proj.",
        r"\.feed_forward\.w(\d)": r".mlp.fc\1", r"^z_norm\.": "z_proj_ln.",
        r"^head\.": "diffloss.net.", r"\.time_embed\.w1": ".time_embed.mlp.0",
        r"\.time_embed\.w2": ".time_embed.mlp.2", r"net\.blocks\.": "net.res_blocks.",
        r"(res_blocks\.\d+)\.norm": r"\1.in_ln", r"(res_blocks\.\d+)\.w1": r"\1.mlp.0",
        r"(res_blocks\.\d+)\.w2": r"\1.mlp.2", r"net\.adaln": "net.final_layer.adaln",
        r"\.adaln\.": ".adaLN_modulation.1.", r"net\.out\.": "net.final_layer.linear.",
    }  # fmt: skip
    return found | renamed(state, renames)


def official_var(state: dict[str, Tensor], sizes: Sequence[int]) -> dict[str, Tensor]:
    """With the buffers of upstream, without the tokenizer's quantizer."""
    state = {name: tensor for name, tensor in state.items() if not name.startswith("quantize.")}
    for name in list(state):
        if name.endswith(".q_bias"):
            state[name.replace("q_bias", "zero_k_bias")] = torch.zeros_like(state[name])
        for ending, axes in (("pos", 1), ("log_scale", 1), ("constants", 2)):
            if name.rpartition(".")[2] in (ending, f"start_{ending}"):
                state[name] = state[name][(None,) * axes]
    level = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    hidden = torch.where(level[:, None] >= level, 0.0, -torch.inf)
    renames = {
        r"^cls_embedding": "class_emb", r"^scale_embedding": "lvl_embed", r"^pos$": "pos_1LC",
        r"^start_pos$": "pos_start", r"^shared_adaln\.": "shared_ada_lin.1.",
        r"^adaln\.": "head_nm.ada_lin.1.", r"^head\.proj\.": "head.", r"^layers\.": "blocks.",
        r"\.adaln\.": ".ada_lin.1.", r"\.constants$": ".ada_gss", r"\.attention\.": ".attn.",
        r"\.wqkv\.": ".mat_qkv.", r"\.wo\.": ".proj.", r"\.log_scale$": ".scale_mul_1H11",
        r"\.feed_forward\.w(\d)": r".ffn.fc\1",
    }  # fmt: skip
    buffers = {"lvl_1L": level[None], "attn_bias_for_masking": hidden[None, None]}
    return renamed(state, renames) | buffers


def official_ibq(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With constants of four axes."""
    state = {k: t[None, None] if k.endswith(".constants") else t for k, t in state.items()}
    renames = {
        r"^tok_embeddings\.": "tok_emb.", r"^cls_embedding\.": "class_emb.embedding_table.",
        r"^shared_adaln\.": "shared_ada_lin.1.", r"^norm\.": "head_nm.rmsnorm.",
        r"^adaln\.": "head_nm.ada_lin.1.", r"\.adaln\.": ".ada_lin.1.",
        r"\.constants$": ".ada_gss", r"^layers\.": "blocks.", r"^head\.proj\.": "head.",
    }  # fmt: skip
    return renamed(state, renames)


def official_vae(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Queries, keys and values in one, with a count of used codes."""
    found: dict[str, Tensor] = {"quantize.ema_vocab_hit_SV": torch.ones(3, 2)}
    for name, tensor in official_conv(state, levels).items():
        if part := re.search(r"\.([qkv])\.(?=weight|bias)", name):
            name = name.replace(part[0], ".qkv.")
            tensor = torch.cat((found[name], tensor)) if part[1] != "q" else tensor
        found[name] = tensor
    return found


def official_conv(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """An autoencoder's, the decoder shallow first."""
    found = {
        re.sub(
            r"^decoder\.conv_blocks\.(\d+)",
            lambda level: f"decoder.up.{levels - 1 - int(level[1])}",
            name,
        ): tensor
        for name, tensor in state.items()
    }
    renames = {
        r"^encoder\.conv_blocks\.": "encoder.down.", r"\.res\.": ".block.",
        r"\.mid\.0\.": ".mid.block_1.", r"\.mid\.1\.": ".mid.attn_1.",
        r"\.mid\.2\.": ".mid.block_2.", r"\.phi\.": ".quant_resi.qresi_ls.",
    }  # fmt: skip
    return renamed(found, renames)


def official_hart(state: dict[str, Tensor], config: HARTConfig) -> dict[str, Tensor]:
    """With the buffers of upstream, without the tokenizer's quantizer."""
    state = {name: tensor for name, tensor in state.items() if not name.startswith("quantize.")}
    swiglu = config.feed_forward == "swiglu"
    for name in list(state):
        if name.endswith(".q_bias"):
            state[name.replace("q_bias", "zero_k_bias")] = torch.zeros_like(state[name])
        if name.endswith(".log_scale"):
            state[name] = state[name][None]
    renames = {
        r"^text_proj": "context_embed", r"^text_norm": "context_norm",
        r"^norm": "head_nm.ln_wo_grad",
        r"^adaln": "head_nm.ada_lin.1", r"^head\.norm": "decoder_norm", r"^head\.proj": "head",
        r"^scale_embedding\.w1": "lvl_embed.mlp.0", r"^scale_embedding\.w2": "lvl_embed.mlp.2",
        r"^scale_embedding": "lvl_embed", r"^layers\.(\d+)\.norm": r"blocks.\1.ln_wo_grad",
        r"^layers": "blocks", r"^(blocks\.\d+)\.adaln": r"\1.ada_lin.1",
        r"\.constants$": ".scale_shift_table", r"\.attention\.wqkv": ".attn.qkv_proj",
        r"\.attention\.wo": ".attn.proj", r"\.log_scale$": ".scale_mul_1H11",
        r"\.attention\.": ".attn.", r"\.cross\.wq": ".cross_attn.q_linear",
        r"\.cross\.wkv": ".cross_attn.kv_linear", r"\.cross\.wo": ".cross_attn.proj",
        r"\.feed_forward\.w1": ".ffn.gate_proj" if swiglu else ".ffn.fc1",
        r"\.feed_forward\.w2": ".ffn.down_proj" if swiglu else ".ffn.fc2",
        r"\.feed_forward\.w3": ".ffn.up_proj", r"^head\.diffusion\.": "diffloss.net.",
        r"\.time_embed\.w1": ".time_embed.mlp.0", r"\.time_embed\.w2": ".time_embed.mlp.2",
        r"net\.blocks\.": "net.res_blocks.", r"(res_blocks\.\d+)\.norm": r"\1.in_ln",
        r"(res_blocks\.\d+)\.w1": r"\1.mlp.0", r"(res_blocks\.\d+)\.w2": r"\1.mlp.2",
        r"net\.adaln": "net.final_layer.adaln", r"\.adaln\.": ".adaLN_modulation.1.",
        r"net\.out\.": "net.final_layer.linear.",
    }  # fmt: skip
    sizes = [config.text_length, *(h * w for h, w in config.scales[1:])]
    levels = [k for k, n in enumerate(sizes) for _ in range(n)]
    return renamed(state, renames) | {"lvl_1L": torch.tensor([levels], device="cpu")}


def official_infinity(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With two logits for each bit and the buffers of upstream; layers numbered throughout."""
    for name in list(state):
        if name.endswith(".q_bias"):
            state[name.replace("q_bias", "zero_k_bias")] = torch.zeros_like(state[name])
        last = name.rpartition(".")[2]
        axes = {"start_pos": 2, "log_scale": 1, "constants": 2, "query": 1}.get(last, 0)
        state[name] = state[name][(None,) * axes]
        if name.startswith("head."):  # any two of this difference
            half = 0.5 * state[name]
            state[name] = torch.stack((-half, half), 1).flatten(0, 1)
    renames = {
        r"^null$": "cfg_uncond", r"^start_pos$": "pos_start", r"^scale_embedding": "lvl_embed",
        r"^pool\.query$": "text_proj_for_sos.ca.mat_q",
        r"^pool\.wkv": "text_proj_for_sos.ca.mat_kv",
        r"^pool\.wo": "text_proj_for_sos.ca.proj", r"^pool\.": "text_proj_for_sos.ca.",
        r"^text_proj\.": "text_proj_for_ca.", r"^shared_adaln\.": "shared_ada_lin.1.",
        r"^adaln\.": "head_nm.ada_lin.1.", r"^head\.proj\.": "head.", r"^layers\.": "blocks.",
        r"\.adaln\.": ".ada_lin.1.", r"\.constants$": ".ada_gss", r"\.attention\.": ".sa.",
        r"\.cross\.": ".ca.", r"\.cross_norm\.": ".ca_norm.", r"\.wqkv\.": ".mat_qkv.",
        r"\.wq\.": ".mat_q.", r"\.wkv\.": ".mat_kv.", r"\.wo\.": ".proj.",
        r"\.log_scale$": ".scale_mul_1H11", r"\.feed_forward\.w(\d)": r".ffn.fc\1",
    }  # fmt: skip
    return renamed(state, renames)


def official_infinity_vae(state: dict[str, Tensor], config: InfinityVAEConfig) -> dict[str, Tensor]:
    """With wrapped convolutions and norms, and a constant of the quantizer, held twice."""
    renames = {
        r"\.(conv\w*|nin_shortcut)\.(weight|bias)$": r".\1.conv.\2",
        r"\.(norm\w+)\.(weight|bias)$": r".\1.norm.\2",
    }
    found = renamed(official_conv(state, len(config.multipliers)), renames)
    mask = 2 ** torch.arange(config.bits - 1, -1, -1)
    return found | {f"{name}.lfq.mask": mask for name in ("quantizer", "quantize")}


def official_maskbit(state: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """With the powers of two of a group's bits."""
    renames = {
        r"^cls_embedding\.": "class_emb.", r"^bit_proj\.": "input_proj.", r"^pos$": "pos_emb",
        r"^norm\.": "first_layer.0.", r"^last_norm\.": "norm_after_transformer.",
        r"^out\.": "last_layer.0.", r"^out_norm\.": "last_layer.2.",
        r"^predict\.": "prediction_layer.", r"^layers\.": "transformer.layers.",
        r"\.wqkv\.": ".0.mha.in_proj_", r"\.wo\.": ".0.mha.out_proj.", r"\.norm1\.": ".0.norm.",
        r"\.feed_forward\.w1\.": ".1.net.0.", r"\.feed_forward\.w2\.": ".1.net.2.",
        r"\.norm2\.": ".1.norm.",
    }  # fmt: skip
    state["pos"] = state["pos"][None]
    return renamed(state, renames) | {"bits_to_indices": (2 ** torch.arange(width)).int()}


def official_maskbit_vqgan(
    state: dict[str, Tensor], bits: int, legacy: bool = False
) -> dict[str, Tensor]:
    """With the constants of upstream's quantizer; without `legacy` levels of the decoder stand in
    the order in which they are run."""
    levels = len({name.split(".")[2] for name in state if name.startswith("decoder.up.")})
    renames = {
        r"^encoder\.halve\.(\d+)\.conv\.": r"encoder.down.\1.down_conv.",
        r"\.upsample\.conv\.": ".upsample_conv.", r"\.block\.": ".res_blocks.",
        r"\.mid\.": ".mid.res_blocks.",
    }  # fmt: skip
    if not legacy:
        state = {
            re.sub(r"^(decoder\.up\.)(\d+)", lambda m: f"{m[1]}{levels - 1 - int(m[2])}", n): t
            for n, t in state.items()
        }
    powers = (2 ** torch.arange(bits)).int()
    codes = (torch.arange(2**bits)[:, None].int() & powers) != 0
    constants = {"bits_to_indices": powers, "codebook": codes.float() * 2 - 1}
    return renamed(state, renames) | {f"quantize.{n}": t for n, t in constants.items()}


def official_meissonic(state: dict[str, Tensor], joint: int) -> dict[str, Tensor]:
    """With queries, keys and values apart, pointwise convolutions, rows of codes that nothing reads
    and no features of an empty text."""
    renames = {
        r"^text_proj\.": "context_embedder.", r"^text_norm\.": "encoder_proj_layer_norm.",
        r"^time_embed\.": "time_text_embed.timestep_embedder.",
        r"^text_embed\.": "time_text_embed.text_embedder.",
        r"^guide_embed\.": "time_text_embed.guidance_embedder.",
        r"^(cond_embed|time_text.*)\.w([12])\.": r"\1.linear_\2.",
        r"^tok_embeddings\.": "embed.embeddings.", r"^embed_norm\.": "embed.layer_norm.",
        r"^embed_proj\.": "embed.conv.", r"^(down|up)\.": r"\1_block.\1sample.",
        r"^in_(norm|proj)\.": r"project_to_hidden_\1.",
        r"^last_(norm|proj)\.": r"project_from_hidden_\1.", r"hidden_proj": "hidden",
        r"^out\.": "mlm_layer.conv1.", r"^out_norm\.": "mlm_layer.layer_norm.",
        r"^head\.proj\.": "mlm_layer.conv2.", r"^joint\.": "transformer_blocks.",
        r"^single\.": "single_transformer_blocks.", r"^(s\w+\.\d+)\.adaln": r"\1.norm.linear",
        r"\.words\.adaln": ".norm1_context.linear", r"\.codes\.adaln": ".norm1.linear",
        r"\.words\.feed_forward": ".ff_context.net", r"\.codes\.feed_forward": ".ff.net",
        r"\.net\.w1": ".net.0.proj", r"\.net\.w2": ".net.2", r"\.wide\.": ".proj_mlp.",
        r"^(s\w+\.\d+)\.attention\.wo": r"\1.proj_out",
        r"\.words\.attention\.([qk])_norm": r".attn.norm_added_\1",
        r"\.words\.attention\.wo": ".attn.to_add_out",
        r"\.words\.attention\.([qkv])\.": r".attn.add_\1_proj.",
        r"(\.codes)?\.attention\.([qk])_norm": r".attn.norm_\2",
        r"\.codes\.attention\.wo": ".attn.to_out.0",
        r"(\.codes)?\.attention\.([qkv])\.": r".attn.to_\2.",
    }  # fmt: skip
    found = {}
    for name, tensor in state.items():
        if layer := re.match(r"layers\.(\d+)\.", name):
            i, rest = int(layer[1]), name[layer.end() :]
            name = f"joint.{i}.{rest}" if i < joint else f"single.{i - joint}.{rest}"
        if name == "tok_embeddings.weight":
            tensor = torch.cat((tensor[:-1], torch.ones_like(tensor[:3]), tensor[-1:]))
        if name in ("embed_proj.weight", "out.weight", "head.proj.weight"):
            tensor = tensor[:, :, None, None]
        if ".wqkv." in name:
            parts = tensor.chunk(3)
            found |= {name.replace("wqkv", n): t for n, t in zip("qkv", parts, strict=True)}
        elif name != "null":
            found[name] = tensor
    return renamed(found, renames)


def official_dualvitok(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With patches of two frames, linear layers that are 1x1 convolutions, and the decoder shallow
    first."""
    last = max(int(name.split(".")[2]) for name in state if name.startswith("decoder.up."))
    renames = {
        r"^vit\.sees\.patches\.": "semantic_encoder.model.patch_embed.proj.",
        r"^vit\.sees\.norm\.": "semantic_encoder.model.merger.ln_q.",
        r"^vit\.sees\.merger\.": "semantic_encoder.model.merger.mlp.",
        r"^vit\.sees\.": "semantic_encoder.model.", r"^(semantic.*)\.layers\.": r"\1.blocks.",
        r"\.wqkv\.": ".attn.qkv.", r"\.wo\.": ".attn.proj.",
        r"\.feed_forward\.w(\d)\.": r".mlp.fc\1.",
        r"^(semantic_\w+)\.proj_out\.": r"\1.proj_out.0.",
        r"^(semantic_\w+)\.norm\.": r"\1.proj_out.1.",
        r"_quantize\.table$": "_quantizer.frozen_codebook",
        r"_quantize\.transform\.": "_quantizer.code_transform.",
        r"^encoder\.conv_blocks\.": "pixel_encoder.down.", r"^(encoder|decoder)\.": r"pixel_\1.",
        r"^((?:post_)?quant_conv)\.": r"pixel_\1.", r"\.res\.": ".block.",
        r"\.mid\.0\.": ".mid.block_1.", r"\.mid\.1\.": ".mid.attn_1.",
        r"\.mid\.2\.": ".mid.block_2.",
        r"(pixel_decoder.*norm\w*)\.norm\.": r"\1.norm_layer.", r"\.scale\.": ".conv_y.",
        r"\.shift\.": ".conv_b.",
        r"^pixel_decoder\.up\.(\d+)": lambda m: f"pixel_decoder.up.{last - int(m[1])}",
    }  # fmt: skip
    found = renamed(state, renames)
    for name, tensor in found.items():
        if name.endswith("patch_embed.proj.weight"):
            found[name] = torch.stack((0.25 * tensor, 0.75 * tensor), 2)
        if name == "semantic_encoder.proj_in.weight":
            found[name] = tensor[..., None, None]
    return found


def diffusers_vq(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a VQGAN as diffusers names them."""
    renames = {
        r"^encoder\.conv_blocks\.": "encoder.down_blocks.",
        r"^decoder\.conv_blocks\.": "decoder.up_blocks.", r"\.res\.": ".resnets.",
        r"\.(up|down)sample\.": r".\1samplers.0.", r"\.nin_shortcut\.": ".conv_shortcut.",
        r"\.norm_out\.": ".conv_norm_out.", r"\.mid\.0\.": ".mid_block.resnets.0.",
        r"\.mid\.2\.": ".mid_block.resnets.1.", r"\.mid\.1\.": ".mid_block.attentions.0.",
        r"\.0\.norm\.": ".0.group_norm.", r"\.0\.([qkv])\.": r".0.to_\1.",
        r"\.0\.proj_out\.": ".0.to_out.0.",
    }  # fmt: skip
    found = renamed(state, renames)
    return {n: t.flatten(1) if ".to_" in n and t.dim() > 1 else t for n, t in found.items()}


def renamed(state: dict[str, Tensor], patterns: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in state.items():
        for pattern, words in patterns.items():
            name = re.sub(pattern, words, name)
        found[name] = tensor
    return found


def views_of_one_storage(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as slices of one flat tensor, as FSDP keeps them."""
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = flat.split([tensor.numel() for tensor in state.values()])
    return {k: part.view_as(v) for (k, v), part in zip(state.items(), parts, strict=True)}


def wrapped(state: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {".".join([*prefixes, name]): tensor for name, tensor in state.items()}


def other(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the same shapes that are wrong."""
    return {name: tensor + 1 for name, tensor in state.items()}


def layouts(state: dict[str, Tensor], args: dict[str, Any]) -> dict[str, tuple[Any, list[str]]]:
    """Every layout of a file, and the options with which its weights are `state`."""
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}}
    script = {"optimizer": optimizer, "steps": 7, "args": argparse.Namespace(**args)}
    return {
        "ddp": ({"model": state, **script}, []),
        "ema": ({"model": other(state), "ema": state, **script}, ["--weights", "ema"]),
        "beside-ema": ({"model": state, "ema": other(state), **script}, []),
        "flat": (state, []),
        "flat-views": (views_of_one_storage(state), []),
        "deepspeed": ({"module": state, "global_steps": 3}, []),
        "lightning": ({"state_dict": state, "epoch": 1}, []),
        "compiled": ({"model": wrapped(state, "module", "_orig_mod")}, []),
        "wrapped": (wrapped(state, "_fsdp_wrapped_module"), []),
    }


class Runs:
    """A pickle of this makes the folder `path` when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write(content: Any, path: Path, old: bool = False) -> Path:
    """Write a file, in the form of torch before 1.6 if `old`."""
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


def shards(weights: dict[str, Tensor], folder: Path) -> Path:
    """The folder with two shards and their index, as large models are published."""
    named = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(weights)}
    for file in set(named.values()):
        held = {name: weights[name].contiguous() for name in weights if named[name] == file}
        save_file(held, folder / file)
    index = {"metadata": {}, "weight_map": named}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
