"""What towers of pictures and texts know, and what they say of drawn pictures.

Zero-shot classification and retrieval as in CLIP (Radford et al. 2021, arXiv:2103.00020); CLIP
score and CMMD are in `eval.clip`. N pictures, T texts, E features.

Unusual: of pictures whose captions name their class, such as those of `shapes`, the sentences that
classes are put into are read off the captions, and captions that say all of `shapes` are taken
apart: the caption nearest to a picture, of all that there are, must be right in each attribute.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.eval.bootstrap import deal, of_blocks, of_means
from smalti.eval.clip import cmmd, cmmd_of_blocks, cosine
from smalti.eval.matching import CAPTIONS
from smalti.eval.measure import preparation
from smalti.eval.metrics import TOWERS, How
from smalti.eval.report import Kind, Measured, counted
from smalti.eval.sets import ImageSet
from smalti.models.towers import Matcher
from smalti.modules import fingerprint
from smalti.progress import say, track

TEMPLATES = ("a photo of a {}.",)
"""Sentences that classes are put into, where captions do not name them and none are given."""
AT = (1, 5, 10)
"""How many of the nearest are looked at in retrieval."""
BLOCK = 1024
"""Rows of a table of products that are in memory at a time."""


@dataclass(frozen=True)
class Seen:
    """Pictures of a set as towers see them."""

    matcher: Matcher
    pictures: ImageSet
    numbers: list[int]
    """Where each is in the set; pictures that cannot be read are left out, which the set tells."""
    features: Tensor
    """(N, E), of length 1."""

    def measured(self, name: str, values: np.ndarray | float, how: How, **about: Any) -> Measured:
        """A record of a metric of `TOWERS`, or of a part of one such as zero_shot_colour, that is a
        mean of values, (N,), or has no interval. Numbers of what towers know compare with those of
        other towers, those of pictures only where the same ones judge."""
        interval = None
        if isinstance(values, np.ndarray):
            interval = of_means(values, how.draws, how.seed)
        kind: Kind = about.pop("kind", "matching")
        images = len(self.numbers)
        return Measured(
            counted(name, images),
            value=float(np.mean(values)),
            images=images,
            kind=kind,
            interval=interval,
            preparation=preparation(self.pictures),
            extractor="" if kind == "matching" else fingerprint(self.matcher.towers),
            **about,
        )

    def texts(self) -> list[str]:
        """What each picture is to show: its caption, else the name of its class.

        Raises ValueError for the first picture that has neither.
        """
        return [told(self.pictures, i) for i in self.numbers]


def seen(matcher: Matcher, pictures: ImageSet, batch: int = 64) -> Seen:
    """See all pictures of a set, which have the size of the towers. Raises ValueError if there are
    none."""
    pictures.require("a tower")
    numbers, features = list[int](), list[Tensor]()
    rows = track(pictures.numbered(batch), "seeing", scale=batch, of=len(pictures))
    for some in rows:
        numbers += some.numbers.tolist()
        features.append(matcher.see(some.images))
    return Seen(matcher, pictures, numbers, torch.cat(features))


def features_of(matcher: Matcher, texts: Sequence[str]) -> Tensor:
    """Unit features (T, E) of texts; a line says how many are longer than the towers read."""
    every = dict.fromkeys(texts)
    if cut := sum(not matcher.fits(text) for text in every):
        say(
            f"{cut} of {len(every)} texts are longer than the {matcher.towers.config.length} ids "
            "that the towers read: what is behind is not read"
        )
    return matcher.read(texts)


def told(pictures: ImageSet, i: int) -> str:
    """What picture i is to show, in words. Raises ValueError if the set does not say it."""
    label, classes = pictures.labels[i], pictures.classes
    text = pictures.caption(i) or (classes[label] if 0 <= label < len(classes) else "")
    if not text:
        raise ValueError(f"{pictures.name} does not say what picture {i} is to show")
    return text


# -- of towers


def zero_shot(found: Seen, how: How, templates: Sequence[str] = ()) -> list[Measured]:
    """Share of pictures whose class is the nearest, each class the mean of sentences that name it;
    of captions of `shapes`, also the share of each attribute of the nearest of all 300.

    Raises ValueError if pictures have no class, and for a template without {}.
    """
    pictures = found.pictures
    labels, classes = pictures.labels[found.numbers], pictures.classes
    if len(classes) < 2 or (labels < 0).any():
        raise ValueError(
            f"zero_shot needs at least 2 classes and one of each picture: {pictures.name} has "
            f"{len(classes)}, and {int((labels < 0).sum())} of {len(labels)} pictures have none"
        )
    captions = [pictures.caption(i) for i in found.numbers]
    named = tuple(templates) or named_in(captions, [classes[n] for n in labels]) or TEMPLATES
    if wrong := next((t for t in named if "{}" not in t), None):
        raise ValueError(f"templates must have {{}} where a class is named, got {wrong!r}")
    filled = [template.replace("{}", name) for name in classes for template in named]
    means = features_of(found.matcher, filled).unflatten(0, (len(classes), -1)).mean(1)
    best = (found.features @ F.normalize(means, dim=-1).T).argmax(1).numpy()
    mark = hashlib.sha256("\n".join(sorted(named)).encode()).hexdigest()[:8]
    some = "; ".join(named[:2]) + (f"; ... {mark}" if len(named) > 2 else "")
    told = f"of {len(classes)} classes, each in {len(named)} sentences ({some})"
    metric = TOWERS["zero_shot"]
    about = {"better": "higher", "reference": pictures.hash, "reference_images": len(labels)}
    about |= {"resampled": "reference"}
    definition = metric.definition.format(told=told)
    record = found.measured(
        "zero_shot", (best == labels).astype(float), how, definition=definition, **about
    )
    return [record, *_attributes(found, captions, how, about)]


def named_in(captions: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The sentences that captions put the names of their classes into, once each; () if one of
    them does not name its class."""
    pairs = list(zip(captions, names, strict=True))
    if not all(name and name in caption for caption, name in pairs):
        return ()
    return tuple(dict.fromkeys(caption.replace(name, "{}") for caption, name in pairs))


def _attributes(
    found: Seen, captions: Sequence[str], how: How, about: dict[str, Any]
) -> list[Measured]:
    """What is right of the nearest of all captions of `shapes`; [] of other pictures."""
    if not all(caption in CAPTIONS for caption in captions):
        return []
    every = list(CAPTIONS)
    nearest = (found.features @ features_of(found.matcher, every).T).argmax(1).tolist()
    pairs = [(CAPTIONS[every[i]], CAPTIONS[own]) for i, own in zip(nearest, captions, strict=True)]
    right = {
        name: np.array([getattr(a, name) == getattr(b, name) for a, b in pairs], np.float64)
        for name in ("colour", "shape", "size", "position")
    }
    right["all"] = np.array([a == b for a, b in pairs], np.float64)
    text = f"share of pictures of which the nearest of all {len(every)} captions is right in"
    return [
        found.measured(
            f"zero_shot_{name}",
            values,
            how,
            definition=f"zero_shot_{name}/1: {text} {name}",
            **about,
        )
        for name, values in right.items()
    ]


def retrieval(found: Seen, how: How) -> list[Measured]:
    """Shares of pictures whose own text is among the nearest 1, 5 and 10 of all texts, and of texts
    of which a picture is among the nearest pictures. Texts that are equal are one.

    Raises ValueError if a picture has no text.
    """
    texts = found.texts()
    every = list(dict.fromkeys(texts))
    index = {text: i for i, text in enumerate(every)}
    own = torch.tensor([index[text] for text in texts])
    ways = ranks(found.features, features_of(found.matcher, every), own)
    about = {"better": "higher", "reference": found.pictures.hash, "resampled": "reference"}
    about |= {"reference_images": len(texts)}
    told = f"{len(every)} texts of {len(texts)} pictures"
    records = list[Measured]()
    for way, ranked in zip(("image_to_text", "text_to_image"), ways, strict=True):
        for n in AT:
            definition = TOWERS["retrieval"].definition.format(way=f"{way}_{n}", n=n, told=told)
            values = (ranked < n).double().numpy()
            records.append(
                found.measured(f"{way}_{n}", values, how, definition=definition, **about)
            )
    return records


def ranks(pictures: Tensor, texts: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """How many other texts are as near to each picture as its own, or nearer, (N,), and how many
    pictures of other texts to each text as the nearest of its own, (T,).

    Args: unit features (N, E) and (T, E); own, which text each picture has, (N,) int64.
    """
    texts_before, pictures_before = list[Tensor](), list[Tensor]()
    for rows, mine in zip(pictures.split(BLOCK), own.split(BLOCK), strict=True):
        near = rows @ texts.T
        level = near.gather(1, mine[:, None])
        texts_before.append((near >= level).sum(1) - 1)
    for rows, mine in zip(texts.split(BLOCK), torch.arange(len(texts)).split(BLOCK), strict=True):
        near, belongs = rows @ pictures.T, own == mine[:, None]
        level = near.masked_fill(~belongs, -torch.inf).amax(1, keepdim=True)
        pictures_before.append(((near >= level) & ~belongs).sum(1))
    return torch.cat(texts_before), torch.cat(pictures_before)


# -- of pictures


def clip_score_of(found: Seen, how: How) -> list[Measured]:
    """CLIP score of pictures and the texts that they are to show, by `told`; 0 where it is less."""
    texts = found.texts()
    every = list(dict.fromkeys(texts))
    index, features = {text: i for i, text in enumerate(every)}, features_of(found.matcher, every)
    own = features[[index[text] for text in texts]]
    values = 100 * cosine(found.features, own).numpy()
    about = {"definition": TOWERS["clip_score"].definition, "better": "higher"}
    record = found.measured("clip_score", values, how, kind="generation", **about)
    low, high = record.interval or (0.0, 0.0)
    interval = record.interval and (max(low, 0.0), max(high, 0.0))
    return [replace(record, value=max(record.value, 0.0), interval=interval)]


def cmmd_of(found: Seen, reference: Seen, how: How) -> list[Measured]:
    """CMMD of pictures and those of a reference; its interval is of other pictures, in blocks."""
    value = cmmd(found.features, reference.features)
    numbers = np.unique(deal(0, len(found.numbers)), return_inverse=True)[1]
    blocks, interval = torch.from_numpy(numbers), None
    if how.draws and len(counts := np.bincount(numbers)) > 1:
        of = cmmd_of_blocks(found.features, reference.features, blocks)
        interval = of_blocks(value, of, counts.tolist(), how.draws, how.seed, (0.0, math.inf))
    about = {"definition": TOWERS["cmmd"].definition, "better": "lower"}
    about |= {"reference": reference.pictures.hash, "reference_images": len(reference.numbers)}
    record = found.measured("cmmd", value, how, kind="generation", **about)
    return [replace(record, interval=interval)]
