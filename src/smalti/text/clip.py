"""The text encoder of a CLIP: features of words, and one more of the whole text.

Radford et al. 2021 (arXiv:2103.00020); ViT-H of OpenCLIP: Cherti et al. 2022 (arXiv:2212.07143).
Unusual: texts are filled up to the 77 tokens that the encoder knows, and what it makes of the
filling is read like words, as Stable Diffusion and Meissonic do; so nothing is masked. Words are
the hidden states before the last layer, and the last feature is the text's embedding, that of the
end mark behind all layers; the narrower of both is filled up with zeros. The weights are no part of
this module: they come from the hub or a folder when the first text is read.
B texts, T tokens, C width.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.config import check
from smalti.devices.named import fast_bf16
from smalti.files import expand
from smalti.text.encoders import TextConfig
from smalti.text.pretrained import Parts, PretrainedEncoder

FOLDERS = ("text_encoder", "tokenizer")
"""Where folders of diffusers keep the encoder and its tokenizer."""


@dataclass(frozen=True)
class CLIPConfig(TextConfig):
    model: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """Hub id or folder of a CLIP with its tokenizer, or a folder of diffusers that holds both."""
    length: int = 78
    """T, a feature for each of T - 1 tokens, the marks of beginning and end and the filling among
    them, and one for the whole text."""
    dim: int = 1024
    """C, the width of a word's features or of the text's embedding, of that CLIP the larger one."""
    last: bool = False
    """Give the states behind the last layer and its norm, of T tokens, and no feature of the whole
    text."""

    def __post_init__(self) -> None:
        check(self, positive=("dim",), several=("length",))


class CLIP(PretrainedEncoder):
    """Tokens of texts to features of a frozen CLIP. It has no parameters of its own.

    Raises ValueError at the first text if there is no such CLIP, or if it has other widths.
    """

    config: CLIPConfig

    def load(self) -> Parts:
        return load(self.config)

    @property
    def capacity(self) -> int:
        return self.config.length - (not self.config.last)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokens (B, T - 1), or of `last` states (B, T), int64 with both marks, filled up on the
        right as the encoder learned them."""
        if self.config.last:
            cut = {"truncation": True, "max_length": self.capacity}
            rows = self.parts.tokenizer(list(texts), **cut)["input_ids"]
            return torch.stack([F.pad(torch.tensor(r), (0, self.capacity - len(r))) for r in rows])
        filled = {"padding": "max_length", "truncation": True, "max_length": self.capacity}
        return torch.tensor(self.parts.tokenizer(list(texts), **filled)["input_ids"])

    def count(self, text: str) -> int:
        return len(self.parts.tokenizer([text], verbose=False)["input_ids"][0])

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens to features (B, T, C), the last of which is the whole text but where the `last`
        states are asked for, and their mask (B, T), all True."""
        device, width = tokens.device, self.config.dim
        model = self.parts.model.to(device, torch.bfloat16 if fast_bf16(device) else torch.float32)
        found = model(input_ids=tokens, output_hidden_states=True)
        if self.config.last:
            features = found.last_hidden_state  # (B, T, C)
        else:
            words, whole = found.hidden_states[-2], found.text_embeds[:, None]
            parts = [F.pad(part, (0, width - part.shape[-1])) for part in (words, whole)]
            features = torch.cat(parts, 1)  # (B, T, C)
        return features, torch.ones(features.shape[:2], dtype=torch.bool, device=device)


def config_of(model: str) -> CLIPConfig:
    """The configuration of a CLIP: clip for OpenCLIP's ViT-H, else a hub id or folder.

    Raises ValueError if there is none.
    """
    if model in ("clip", CLIPConfig.model):
        return CLIPConfig()
    with _named(model) as transformers:
        found = settings_of(transformers, places_of(model)[0])
        return CLIPConfig(model, found.max_position_embeddings + 1, width_of(found))


def width_of(settings: Any) -> int:
    """The width of features, of the settings of an encoder."""
    return max(settings.hidden_size, settings.projection_dim)


def settings_of(transformers: Any, where: str) -> Any:
    """The settings of the text's encoder, of a folder that may hold the pictures' as well."""
    found = transformers.AutoConfig.from_pretrained(where)
    if found.model_type == "clip":
        found.text_config.projection_dim = found.projection_dim
        return found.text_config
    if found.model_type != "clip_text_model":
        raise ValueError(f"it is a {found.model_type}")
    return found


def places_of(model: str) -> list[str]:
    """Where the encoder and its tokenizer are: both in one place, or in folders of their own."""
    folder = expand(model)
    if all((folder / name).is_dir() for name in FOLDERS):
        return [str(Path(folder / name)) for name in FOLDERS]
    return [str(folder)] * 2


def load(config: CLIPConfig) -> Parts:
    """Tokenizer and encoder of a CLIP from the hub or a folder."""
    with _named(config.model) as transformers:
        where, words = places_of(config.model)
        tokenizer = transformers.AutoTokenizer.from_pretrained(words)
        settings = settings_of(transformers, where)
        model = transformers.CLIPTextModelWithProjection.from_pretrained(where, config=settings)
    width = settings.hidden_size if config.last else width_of(settings)
    if width != config.dim:
        raise ValueError(f"{config.model} has features of width {width}, got dim {config.dim}")
    if config.length - (not config.last) > (most := settings.max_position_embeddings):
        raise ValueError(f"{config.model} reads {most} tokens, got length {config.length}")
    return Parts(tokenizer, model.eval().requires_grad_(False))


@contextmanager
def _named(model: str) -> Iterator[Any]:
    """`transformers`, with its complaints about a model as one line."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise ValueError('CLIP needs `pip install "smalti[text]"`') from None
    try:
        yield transformers
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{model} is no CLIP that can be loaded: {reason}") from None


def tiny() -> CLIPConfig:
    """A CLIP of random weights that the hub keeps for tests."""
    return CLIPConfig(model="hf-internal-testing/tiny-random-clip", length=13, dim=64)
