"""Images and their captions to a token cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from smalti.data.skipped import none_left, read, tell
from smalti.data.source import Source, require_captions, split
from smalti.data.token_cache import write_cache
from smalti.data.transforms import Transform, to_float
from smalti.progress import track
from smalti.storage import fingerprint, identity


def encode(
    source: Source,
    tokenizer: Any,
    transform: Transform,
    out: Path,
    holdout: float = 0.1,
    batch: int = 64,
    device: torch.device | str = "cpu",
    text: Any = None,
    posterior: Literal["sample", "mode"] = "sample",
    half: bool = False,
) -> None:
    """Encode every fixed view of every image and write the cache at `out`.

    A share `holdout` of the images is marked held out, the same ones whatever the tokenizer. `text`
    is a frozen encoder whose features of the captions are to be kept. Of a tokenizer that gives
    distributions of codes, `posterior` keeps them, to draw a sample in each epoch, or their means;
    `half` keeps continuous codes as float16. Images that cannot be decoded are left out, and named
    on standard error.
    Raises ValueError if the transform does not give the tokenizer's image size, if there are no
    captions for `text`, if codes are no numbers, or if no image can be decoded.
    """
    sampled = posterior == "sample" and tokenizer.distributions
    read_codes = tokenizer.moments if sampled else tokenizer.encode
    if text is not None:
        require_captions(source)
    if tuple(tokenizer.config.size) != (transform.size, transform.size):
        raise ValueError(
            f"the tokenizer reads images of {tokenizer.config.size} pixels, "
            f"the transform gives {transform.size}"
        )
    held_out = set(split(source, holdout)[1])
    views = transform.view_count
    per_step = max(1, batch // max(views, 1))

    @torch.inference_mode()
    def rows() -> Iterator[tuple[Any, ...]]:
        used = 0
        for start in track(
            range(0, len(source), per_step), "encoding", scale=per_step, of=len(source)
        ):
            chosen = range(start, min(start + per_step, len(source)))
            found = {i: example for i in chosen if (example := read(source, i)) is not None}
            if not found:
                continue
            used += len(found)
            pixels = np.concatenate([transform.views(e.image) for e in found.values()])
            codes = read_codes(to_float(torch.from_numpy(pixels).to(device))).cpu().numpy()
            codes = codes.reshape(len(found), views, *codes.shape[1:])
            captions = [e.caption for e in found.values()]
            texts = [None] * len(captions) if text is None else features(text, captions, device)
            for (i, e), code, words in zip(found.items(), codes, texts, strict=True):
                yield code, e.label, e.caption, i in held_out, source.key(i), words
        if not used:
            raise none_left(source)

    write_cache(
        out,
        rows(),
        spec=tokenizer.spec,
        views=views,
        tokenizer_fingerprint=fingerprint(tokenizer),
        transform=asdict(transform),
        source=source.name,
        source_fingerprint=source.fingerprint(),
        classes=source.classes,
        half=half,
        posterior=sampled,
        text=None if text is None else identity(text),
    )
    tell(source)


def features(encoder: Any, captions: list[str], device: torch.device | str) -> list[np.ndarray]:
    """The features of each caption, (tokens, C) float16 without padding; none of an empty one."""
    found, mask = encoder(encoder.tokenize(captions).to(device))
    rows, masks = found.cpu().to(torch.float16).numpy(), mask.cpu().numpy()  # as the cache stores
    texts = zip(rows, masks, captions, strict=True)
    return [row[mask if caption else slice(0)] for row, mask, caption in texts]
