"""What is measured of a pipeline beside its pictures: likelihood, and whether it obeys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smalti.data.maps import KINDS
from smalti.data.open import class_of, open_source
from smalti.data.transforms import to_float
from smalti.eval.bootstrap import of_means
from smalti.eval.conditioning import ClassifierConfig, class_accuracy
from smalti.eval.conditioning import shapes as oracle
from smalti.eval.likelihood import as_bits, losses
from smalti.eval.measure import preparation
from smalti.eval.metrics import How
from smalti.eval.report import Measured, counted
from smalti.eval.sets import ImageSet
from smalti.progress import say


def conditioning(
    drawn: ImageSet, source: str, how: How, labels: np.ndarray | None = None
) -> list[Measured]:
    """How many pictures show what they were drawn for: by the oracle of `shapes`, or by a small
    classifier that learned nine tenths of the source, whatever the pipeline did, beside real
    ones: all pipelines of a source have the same judge. `labels` are the classes of the captions
    of pictures that say none themselves."""
    about: dict[str, Any] = {"kind": "conditioning", "better": "higher"}
    real = open_source(source)
    about |= {"preparation": preparation(drawn), "reference": real.fingerprint()}
    if real.recognised:
        hits = oracle(drawn)
        text = f"share as asked for, by the exact oracle of shapes, of {', '.join(hits)}"
        return [
            Measured(
                counted(f"matching_{name}", len(right)),
                f"matching_{name}/1: {text}",
                float(right.mean()),
                len(right),
                interval=of_means(right, how.draws, how.seed),
                **about,
            )
            for name, right in hits.items()
        ]
    text = "mean over classes of the share that a classifier of the training pictures recognises"
    judged = class_accuracy(drawn, source, labels=labels)
    told = f"{text}: {ClassifierConfig()}; held out: {len(judged[1].labels)} real pictures"
    found = [
        Measured(
            counted(name, len(some.labels)),
            f"{name}/2: {told}",
            some.share(),
            len(some.labels),
            interval=some.interval(how.draws, how.seed),
            resampled="images" if name == "class_accuracy" else "reference",
            **about,
        )
        for name, some in zip(("class_accuracy", "class_held_out_accuracy"), judged, strict=True)
    ]
    chance = 1 / len(real.classes)
    text = "class_chance/2: one in as many as there are classes"
    return [*found, Measured("class_chance", text, chance, 0, **about)]


def source_of(pipe: Any) -> str:
    """The pictures that a pipeline learned from, those that its documents are made of where they
    have captions; '' if it does not say."""
    return str(pipe.info.get("source") or "").removeprefix("captioned:")


def check_judge(pipe: Any, reference: ImageSet) -> None:
    """Raise ValueError unless there is a judge of what the pipeline was asked for: its own classes,
    or the captions of a reference."""
    source = source_of(pipe)
    if not source or pipe.map is not None:
        what = "a pipeline without a source" if not source else "what is drawn from maps"
        raise ValueError(f"--conditioning has no judge of {what}")
    if not pipe.classes and class_of(source).recognised:
        return
    whose, names = "pipeline", list(pipe.classes)
    if not names:
        whose, names = "captions of the reference", reference.classes
    if len(names) < 2:
        raise ValueError(
            f"--conditioning needs at least 2 classes, got {len(names)} of the {whose}"
        )
    if (classes := open_source(source).classes) != names:
        raise ValueError(
            f"--conditioning: {source} has other classes ({', '.join(classes[:3])}) than the "
            f"{whose} ({', '.join(names[:3])})"
        )
    if not pipe.classes and (reference.labels < 0).any():
        raise ValueError(f"--conditioning: some pictures of {reference.name} have no class")


def asked_of(
    pipe: Any, reference: ImageSet, count: int, balanced: bool = False
) -> np.ndarray | None:
    """The classes (count,) of the pictures whose captions a pipeline of texts draws, as `asked`
    orders them; None of a pipeline of classes, and where the source is read without them."""
    if pipe.classes or class_of(source_of(pipe)).recognised:
        return None
    each = [(reference.caption(i), int(reference.labels[i])) for i in _good(reference)]
    first = dict[str, int]()
    for caption, label in each:
        first.setdefault(caption, label)
    labels = list(first.values()) if balanced else [label for _, label in each]
    return np.resize(np.array(labels), count)


def asked(pipe: Any, reference: ImageSet, balanced: bool = False) -> dict[str, Any]:
    """The conditions of the reference's pictures, in turn, or all classes: {}; `balanced` takes
    every class or caption once. Raises ValueError if a text pipeline has no captions to draw, or
    one that draws from maps none of the pictures' own."""
    if pipe.map is not None:
        if pipe.map.map in KINDS:
            raise ValueError(
                f"pictures are measured here without maps beside them, and {pipe.map.map} maps are "
                "what the pipeline draws from"
            )
        return {"map": [row.tolist() for some in reference.numbered() for row in _maps(pipe, some)]}
    if not pipe.classes:  # it draws from texts
        captions = [reference.caption(i) for i in _good(reference)]
        if not captions or not all(captions):
            raise ValueError(f"{reference.name} has no captions, which the pipeline draws from")
        return {"text": list(dict.fromkeys(captions)) if balanced else captions}
    if balanced or not len(reference) or not _known(pipe, reference):
        return {}
    return {"classes": reference.labels[_good(reference)].tolist()}


def _maps(pipe: Any, rows: Any) -> Tensor:
    """Codes (B, M) of the maps that the pictures of some rows have in them."""
    with torch.inference_mode():
        return pipe.map.encode(to_float(rows.images.to(pipe.device)))


def _good(reference: ImageSet) -> list[int]:
    """The numbers of pictures that can be read."""
    if not len(reference):
        return []
    return [i for rows in reference.numbered() for i in rows.numbers.tolist()]


def _known(pipe: Any, reference: ImageSet) -> bool:
    """Whether the reference's classes are the pipeline's."""
    return reference.classes == list(pipe.classes) and bool((reference.labels >= 0).all())


def _conditions(pipe: Any, reference: ImageSet) -> bool:
    """Whether the reference says what each picture is of."""
    one = len(pipe.classes) == 1 and not reference.classes
    return not pipe.classes or one or _known(pipe, reference)


def bits(pipe: Any, reference: ImageSet, how: How) -> list[Measured]:
    """The pipeline's likelihood of the reference's pictures, or the loss that takes its place."""
    if not pipe.classes and pipe.text is None and pipe.map is None:
        say("the likelihood is left out: codes stand in rows of text here")
        return []
    if reference.size != tuple(pipe.tokenizer.config.size) or not _conditions(pipe, reference):
        say("the likelihood is left out: the reference has other classes or another size")
        return []
    coded = _coded(pipe, reference, how.batch)
    lost = losses(pipe.model, coded, pipe.device, encoder=pipe.text).numpy()
    interval = of_means(lost, how.draws, how.seed)
    low, high = (_units(pipe, loss) for loss in interval or (0.0, 0.0))
    images = len(lost)
    about = {"images": images, "kind": "likelihood", "better": "lower"}
    about |= {"reference": reference.hash, "reference_images": images}
    about |= {"preparation": preparation(reference), "extractor": pipe.fingerprint.split("-")[0]}
    about |= {"resampled": "reference"}
    text = "of codes, teacher-forced, true condition"
    if not pipe.model.spec.discrete:
        text = f"of codes, {pipe.model.head.kind}, true condition"
    return [
        Measured(
            name,
            f"{name}/1: {text}",
            value,
            interval=interval and (low[name], high[name]),
            **about,
        )
        for name, value in _units(pipe, float(lost.mean())).items()
        if not name.startswith("nats")
    ]


def _coded(pipe: Any, reference: ImageSet, batch: int) -> Iterator[dict[str, Tensor]]:
    """The reference's pictures as codes, each batch with its labels or captions."""
    for rows in reference.numbered(batch):
        given, numbers = {"codes": pipe.encode(rows.images)}, rows.numbers
        if pipe.text is not None:
            texts = [reference.caption(i) for i in numbers.tolist()]
            yield given | {"text_tokens": pipe.text.tokenize(texts)}
        elif pipe.map is not None:
            yield given | {"map": _maps(pipe, rows)}
        else:
            labels = reference.labels[numbers] if reference.classes else np.zeros_like(numbers)
            yield given | {"labels": torch.from_numpy(labels)}


def _units(pipe: Any, loss: float) -> dict[str, float]:
    """A loss per image in every unit, bits per dimension (a colour of a pixel) among them."""
    height, width = pipe.tokenizer.config.size
    told = as_bits(pipe.model, loss)
    per_image = {k: v for k, v in told.items() if k.startswith("bits_per_image")}
    pixels = 3 * height * width
    return told | {k.replace("image", "dimension"): v / pixels for k, v in per_image.items()}
