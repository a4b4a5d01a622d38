"""What `smalti eval` measures by towers: what they know, and what they say of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from smalti.cli.evaluate import Options
from smalti.devices.named import named_device
from smalti.eval.metrics import KNOWN, TOWERS, How, named
from smalti.eval.report import Measured
from smalti.eval.sets import ImageSet, open_set
from smalti.eval.towers import clip_score_of, cmmd_of, retrieval, seen, zero_shot
from smalti.loading import load_towers
from smalti.models.towers import Matcher
from smalti.modules import fingerprint
from smalti.recipes.base import DataConfig


class Found(NamedTuple):
    """What was measured of a subject."""

    metrics: list[Measured]
    subject: dict[str, Any]
    """What the report says of it."""
    given: str | None
    """The reference as it was named."""
    reference: ImageSet | None
    details: Mapping[str, Any] = MappingProxyType({})
    """What the report says beside the numbers, by name."""


def of_towers(subject: str, options: Options) -> Found:
    """What towers know of the pictures of a reference and their texts."""
    names = named(options.metrics)
    if wrong := [name for name in names if name not in KNOWN]:
        raise ValueError(
            f"{', '.join(wrong)}: {subject} holds towers, of which {' and '.join(KNOWN)} are "
            "measured; of pictures towers judge as --towers"
        )
    matcher = load_towers(subject, named_device(options.device))
    given = options.reference or unseen(subject, matcher.info)
    share = matcher.info.get("holdout") or DataConfig().holdout
    reference = open_set(given, matcher.towers.config.size, options.skip_bad, share)
    if not names:
        names = tuple(n for n in KNOWN if n != "zero_shot" or len(reference.classes) > 1)
    how = How((), draws=options.bootstrap, seed=options.seed, batch=options.batch)
    saw = seen(matcher, reference, options.batch)
    found = list[Measured]()
    if "zero_shot" in names:
        found += zero_shot(saw, how, options.templates)
    if "retrieval" in names:
        found += retrieval(saw, how)
    return Found(
        found, {"kind": "towers", "fingerprint": fingerprint(matcher.towers)}, given, reference
    )


def unseen(subject: str, info: Mapping[str, Any]) -> str:
    """The part of its source that a subject never saw. Raises ValueError if it does not say, or if
    there is none."""
    if not info.get("source") or not info.get("holdout"):
        raise ValueError(f"{subject} does not say what it never saw: give --reference")
    return f"{info['source']}@held"


@dataclass(frozen=True)
class Judge:
    """Towers that judge pictures, and what they are asked for."""

    metrics: tuple[str, ...]
    matcher: Matcher | None
    given: str | None
    """The reference as it was named."""
    share: float
    skip_bad: bool

    @staticmethod
    def of(options: Options, given: str | None, share: float) -> Judge:
        """The towers of the options. Raises ValueError if there are none where they are needed, or
        where they have nothing to judge, and if cmmd has no reference."""
        names = tuple(name for name in named(options.metrics) if name in TOWERS)
        if bool(names) != (options.towers is not None):
            raise ValueError(
                f"{', '.join(names)}: towers are needed, give --towers"
                if names
                else "--towers is for the metrics clip_score and cmmd: name them with --metrics"
            )
        if "cmmd" in names and given is None:
            raise ValueError("cmmd: a reference is needed, give --reference")
        matcher = None
        if options.towers is not None:
            matcher = load_towers(options.towers, named_device(options.device))
        return Judge(names, matcher, given, share, options.skip_bad)

    @property
    def side(self) -> int | None:
        """The pixels of a side of the pictures that they see; None where there are none."""
        return self.matcher and self.matcher.towers.config.size

    def measured(self, pictures: str | Path, how: How) -> tuple[list[Measured], dict[str, Any]]:
        """What they say of pictures, at their own size, and nothing beside the numbers."""
        if self.matcher is None:
            return [], {}
        found = list[Measured]()
        saw = seen(self.matcher, open_set(pictures, self.side, self.skip_bad), how.batch)
        if "clip_score" in self.metrics:
            found += clip_score_of(saw, how)
        if "cmmd" in self.metrics and self.given is not None:
            reference = open_set(self.given, self.side, self.skip_bad, self.share)
            found += cmmd_of(saw, seen(self.matcher, reference, how.batch), how)
        return found, {}
