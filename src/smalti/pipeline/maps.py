"""Maps that people give as codes that a model is conditioned on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from smalti.codes import TokenSpec
from smalti.data.maps import as_map
from smalti.data.transforms import center_part, to_float
from smalti.pipeline.request import Asked
from smalti.tokenizers.base import ImageTokenizer


@torch.inference_mode()
def coded_maps(tokenizer: ImageTokenizer, maps: Any, spec: TokenSpec) -> list[Asked]:
    """The conditions that one or several maps are, which become codes `spec`: each a picture of any
    form, brought to their size as in training, or a list of its codes.

    Raises ValueError if there is none, and for what is no map.
    """
    if maps is None:
        what = "picture whose edges are taken" if tokenizer.map == "edges" else tokenizer.map
        raise ValueError(f"this pipeline draws from maps: give it one, a {what}")
    several = isinstance(maps, list | tuple) and not _codes(maps)
    given: Sequence[Any] = maps if several else [maps]
    if not given:
        raise ValueError("the number of maps must be at least 1, got 0")
    return [{"map": m if _codes(m) else _coded(tokenizer, m, spec)} for m in given]


def _codes(map: Any) -> bool:
    """Whether a map is given as its codes."""
    return isinstance(map, list) and bool(map) and all(isinstance(code, int) for code in map)


def _coded(tokenizer: ImageTokenizer, map: Any, spec: TokenSpec) -> list[int]:
    """The codes `spec` of a picture."""
    weight = next(tokenizer.parameters())
    pixels = center_part(as_map(map, tokenizer.map), tokenizer.size_of(spec))
    images = to_float(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
    return tokenizer.encode(images.to(weight.device), spec)[0].tolist()
