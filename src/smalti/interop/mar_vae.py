"""The KL-VAE of MAR's official files: names and settings (LTH14/mar, models/vae.py).

Names are those of VAR's tokenizer, but for the attention, which has separate convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smalti.interop.var import vae_state
from smalti.tokenizers.kl_vae import KLVAEConfig

DEFAULTS: dict[str, Any] = {
    "ch": 128,
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "resolution": 256,
    "dropout": 0.0,
}
"""Arguments of `Encoder`, those that shape weights or outputs."""


def kl_config(
    constructor: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    size: tuple[int, int] | None = None,
    **ours: Any,
) -> KLVAEConfig:
    """Our config of the official arguments of `AutoencoderKL`, and of those of its `Encoder` and
    `Decoder`; `ours` are fields of our own: `scale`, `group`.

    `size` is the height and width of the images, by default upstream's resolution. Raises
    ValueError for an unknown argument.
    """
    overrides = dict(overrides or {})
    unknown = sorted(overrides.keys() - DEFAULTS.keys())
    unknown += sorted(constructor.keys() - {"embed_dim", "ch_mult", "use_variational", "ckpt_path"})
    if unknown or not constructor.get("use_variational", True):
        raise ValueError(
            f"MAR AutoencoderKL: unknown settings {', '.join(unknown) or 'use_variational=False'} "
            f"(known: embed_dim, ch_mult, {', '.join(DEFAULTS)})"
        )
    args = DEFAULTS | overrides
    side = args["resolution"]
    return KLVAEConfig(
        size=size or (side, side),
        channels=args["ch"],
        multipliers=tuple(constructor["ch_mult"]),
        blocks=args["num_res_blocks"],
        latent=constructor["embed_dim"],
        attention_at=tuple(side // r for r in args["attn_resolutions"]),
        dropout=args["dropout"],
        **ours,
    )


def kl_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of an official one, without the weights of its training losses."""
    return vae_state({k: t for k, t in state.items() if not k.startswith("loss.")})
