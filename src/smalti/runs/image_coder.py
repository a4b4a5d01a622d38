"""What makes rows of a token cache of images and their captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from smalti.arguments import by
from smalti.config import to_dict
from smalti.data.maps import KINDS, alone, map_of, with_maps
from smalti.data.skipped import read
from smalti.data.source import Example, Source, require_captions, wordings
from smalti.data.token_cache import TokenCache
from smalti.data.token_file import Encoding, Row, write_cache
from smalti.data.transforms import Transform, to_float
from smalti.modules import fingerprint, identity, name_of
from smalti.nn.finite import NotFinite
from smalti.runs.encode import Encodes
from smalti.text.encoders import TextEncoder
from smalti.tokenizers.base import ImageTokenizer


@dataclass(frozen=True)
class Coder(Encodes):
    """Makes rows of a token cache of images: what is read, by what, and what is kept of it."""

    things: ClassVar[str] = "images"
    source: Source
    tokenizer: ImageTokenizer
    transform: Transform
    text: TextEncoder | None = None
    """A frozen encoder whose features of the captions are kept."""
    holdout: float = 0.1
    """Share of the images that are marked held out, the same ones whatever the tokenizer."""
    posterior: Literal["sample", "mode"] = "sample"
    """Of a tokenizer that gives distributions of codes: keep them, to draw a sample in each epoch,
    or their means."""
    half: bool = False
    """Keep continuous codes as float16."""
    device: torch.device | str = "cpu"
    map: ImageTokenizer | None = None
    """Makes the codes of the images' maps that are kept."""
    wordings: bool = False
    """Keep all texts that the source has of an image, and not its caption alone."""
    batch: int = 64
    """Views at a time."""

    @property
    def sampled(self) -> bool:
        """Whether distributions of codes are kept."""
        return self.posterior == "sample" and self.tokenizer.distributions

    @property
    def step(self) -> int:
        """Images at a time."""
        return max(1, self.batch // max(self.transform.view_count, 1))

    @cached_property
    def encoding(self) -> Encoding:
        """What the codes are of."""
        return Encoding(
            self.tokenizer.spec,
            self.transform.view_count,
            fingerprint(self.tokenizer.coder),
            self._views,
            self.source.name,
            self.source.fingerprint(),
            self.source.classes,
            None if self.text is None else identity(self.text),
            self.half,
            self.sampled,
            about_map(self.map, self.source),
            self.wordings,
            self.holdout,
        )

    @property
    def _views(self) -> dict[str, Any]:
        """How views are cut. Shifts have none to encode, and files of before do not name them."""
        return {name: how for name, how in asdict(self.transform).items() if name != "shift"}

    def settings(self) -> dict[str, object]:
        """What the bytes of the result depend on, as JSON values."""
        about = to_dict(self.encoding) | {
            "device": torch.device(self.device).type,
            "step": self.step,
        }
        left = ["spec", "source"] + ["map"] * (self.map is None)
        left += ["wordings"] * (not self.wordings)
        return {name: value for name, value in about.items() if name not in left}

    def check(self) -> None:
        """Raise ValueError if there are no captions for the text encoder, if the transform does not
        give the tokenizer's image size, or if so large a share cannot be held out."""
        _ = self.held_out
        if self.text is not None:
            require_captions(self.source)
        if self.tokenizer.size != (self.transform.size, self.transform.size):
            raise ValueError(
                f"the tokenizer reads images of {self.tokenizer.size} pixels, "
                f"the transform gives {self.transform.size}"
            )
        if self.map is not None:
            check_map(self.map, self.tokenizer)
            _ = self.mapped

    @torch.inference_mode()
    def __call__(self, chosen: Iterable[int]) -> list[Row]:
        """The rows of some images, without those that cannot be decoded."""
        source, found = self.source, dict[int, Example]()
        for i in chosen:
            if (example := read(source, i)) is not None:
                found[i] = example
        if not found:
            return []
        pixels = np.concatenate([self.transform.views(e.image) for e in found.values()])
        images = to_float(torch.from_numpy(pixels).to(self.device))
        read_codes = self.tokenizer.moments if self.sampled else self.tokenizer.encode
        try:
            codes = read_codes(images).cpu().numpy()
        except NotFinite:
            for i, views in zip(found, images.chunk(len(found)), strict=True):
                try:
                    read_codes(views)
                except NotFinite as error:
                    raise NotFinite(f"codes of {source.key(i)!r}: {error}") from None
            raise
        codes = codes.reshape(len(found), self.transform.view_count, *codes.shape[1:])
        captions = [e.caption for e in found.values()]
        texts: Sequence[np.ndarray | None] = [None] * len(captions)
        if self.text is not None:
            texts = features(self.text, captions, self.device)
        maps = [None] * len(captions) if self.map is None else self.maps(list(found), pixels)
        others = [self.others(i, e.caption) for i, e in found.items()]
        parts = zip(found.items(), codes, texts, maps, others, strict=True)
        return [
            Row(code, e.label, e.caption, i in self.held_out, source.key(i), words, map, other)
            for (i, e), code, words, map, other in parts
        ]

    def others(self, i: int, caption: str) -> tuple[str, ...]:
        """The texts of image i that are kept beside its caption."""
        texts = wordings(self.source, i) if self.wordings else []
        return tuple(text for text in texts if text != caption)

    @cached_property
    def mapped(self) -> Any:
        """The source, which has the maps that are kept."""
        return with_maps(self.source, "" if self.map is None else self.map.map)

    def maps(self, chosen: list[int], pixels: np.ndarray) -> list[np.ndarray]:
        """Codes (V, M) of the maps of images whose views are `pixels` (images * V, 3, H, W)."""
        assert self.map is not None
        if self.map.map in KINDS:
            maps = [map_of(self.mapped, i, self.map.map) for i in chosen]
            pixels = np.concatenate([self.transform.views(map) for map in maps])
        codes = self.map.encode(to_float(torch.from_numpy(pixels).to(self.device))).cpu().numpy()
        return list(codes.reshape(len(chosen), self.transform.view_count, -1))

    def write(self, path: Path, rows: Iterable[Row]) -> int:
        """Write a token cache of such rows, and return how many they were."""
        return write_cache(path, rows, self.encoding)

    def opened(self, path: Path) -> TokenCache:
        """A token cache, open for reading."""
        return TokenCache(path)


def about_map(tokenizer: ImageTokenizer | None, source: Source) -> dict[str, Any] | None:
    """What a token cache says of the codes of a source's maps."""
    if tokenizer is None:
        return None
    kind, spec = tokenizer.map, to_dict(tokenizer.spec)
    about = {"kind": kind, "spec": spec, "fingerprint": fingerprint(tokenizer.coder)}
    return about | {"source": alone(source, kind).fingerprint()}


def check_map(map: ImageTokenizer, tokenizer: ImageTokenizer) -> None:
    """Raise ValueError unless a tokenizer makes one code a place of maps of pictures that another
    tokenizer reads."""
    spec = map.spec
    if not map.map or not spec.discrete or spec.trailing or len(spec.grids) > 1:
        raise ValueError(
            "a map needs a tokenizer of depth, segmentation or edges, with one code at each place, "
            f"got {name_of(map)} with map {map.map!r}"
        )
    if map.size != tokenizer.size:
        raise ValueError(
            f"the tokenizer of maps reads images of {by(map.size)} pixels, that of pictures of "
            f"{by(tokenizer.size)}"
        )


def features(
    encoder: TextEncoder, captions: list[str], device: torch.device | str
) -> list[np.ndarray]:
    """The features of each caption, (tokens, C) float16 without padding; none of an empty one."""
    found, mask = encoder(encoder.tokenize(captions).to(device))
    rows, masks = found.cpu().to(torch.float16).numpy(), mask.cpu().numpy()  # as the cache stores
    texts = zip(rows, masks, captions, strict=True)
    return [row[mask if caption else slice(0)] for row, mask, caption in texts]
