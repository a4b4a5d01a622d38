"""Names of systems in files and on the command line: plain dicts, no decorators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from smalti.models import fluid, llamagen, mar, maskgit, rar, var
from smalti.text import bytes as byte_level
from smalti.text import t5
from smalti.tokenizers import kl_vae, maskgit_vqgan, multiscale_vqvae, vqgan


@dataclass(frozen=True)
class Entry:
    config: type[Any]
    module: Callable[[Any], nn.Module]
    """The class, or a function that makes one of several classes of a configuration."""
    tiny: Callable[[], Any]
    """The configuration of a very small one, for tests."""


TOKENIZERS = {
    "vqgan": Entry(vqgan.VQGANConfig, vqgan.VQGAN, vqgan.tiny),
    "multiscale_vqvae": Entry(
        multiscale_vqvae.MultiScaleConfig,
        multiscale_vqvae.MultiScaleVQVAE,
        multiscale_vqvae.tiny,
    ),
    "maskgit_vqgan": Entry(
        maskgit_vqgan.MaskGITVQGANConfig, maskgit_vqgan.MaskGITVQGAN, maskgit_vqgan.tiny
    ),
    "kl_vae": Entry(kl_vae.KLVAEConfig, kl_vae.KLVAE, kl_vae.tiny),
}
MODELS = {
    "fluid": Entry(fluid.FluidConfig, fluid.fluid, fluid.tiny),
    "llamagen": Entry(llamagen.LlamaGenConfig, llamagen.LlamaGen, llamagen.tiny),
    "mar": Entry(mar.MARConfig, mar.MAR, mar.tiny),
    "rar": Entry(rar.RARConfig, rar.RAR, rar.tiny),
    "var": Entry(var.VARConfig, var.VAR, var.tiny),
    "maskgit": Entry(maskgit.MaskGITConfig, maskgit.MaskGIT, maskgit.tiny),
}
TEXT = {
    "bytes": Entry(byte_level.BytesConfig, byte_level.ByteEncoder, byte_level.tiny),
    "t5": Entry(t5.T5Config, t5.T5, t5.tiny),
}


def entry(kind: Any, among: dict[str, Entry], where: str) -> Entry:
    """Look a name up. Raises ValueError naming what is known."""
    if not isinstance(kind, str) or kind not in among:
        raise ValueError(f"{where}: type must be one of {', '.join(among)}, got {kind!r}")
    return among[kind]


def module_of(config: Any, among: dict[str, Entry]) -> Any:
    """A new module of a configuration."""
    for item in among.values():
        if type(config) is item.config:
            return item.module(config)
    raise ValueError(f"{type(config).__name__} is not registered")


def name_of(module: Any) -> str:
    """The name under which a module's configuration is registered."""
    for known in (TOKENIZERS, MODELS, TEXT):
        for name, item in known.items():
            if type(module.config) is item.config:
                return name
    raise ValueError(f"{type(module).__name__} is not registered")
