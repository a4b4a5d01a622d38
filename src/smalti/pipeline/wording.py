"""What else prompts are made of: names of classes, and styles, as the data of a pipeline has them.

A pipeline that draws from texts keeps in its `pipeline.json` how the classes of the pictures that
it learned are called (`text_classes`), and the styles that its captions end with (`styles`). A
class is drawn as its name; a style is a phrase behind a prompt: "red heart, noto".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smalti.arguments import choose_number, find, several
from smalti.config import did_you_mean
from smalti.text.prompts import checked

KEYS = ("text_classes", "styles")
"""Where a pipeline's facts have them."""


@dataclass(frozen=True)
class Wording:
    """Names that prompts may be made of; a pipeline that knows none has empty ones."""

    classes: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Wording:
        """Those of a pipeline's facts. Raises ValueError for what are no names."""
        found = [info.get(key) or [] for key in KEYS]
        for key, names in zip(KEYS, found, strict=True):
            if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
                raise ValueError(f"pipeline.json: {key} must be names, got {names!r}")
        return cls(*map(tuple, found))

    def prompts(self, text: Any, classes: Any, style: str | None) -> Any:
        """The texts to draw: those given, else the names of classes, of all if none are given,
        with a style behind each. None if there is nothing of this.

        Raises ValueError, naming what there is, for a class or a style that is none.
        """
        if text is not None and classes is not None:
            raise ValueError(f"give texts or classes, not both: {text!r} and {classes!r}")
        if text is None and classes is not None and not self.classes:
            raise ValueError(f"this pipeline draws from texts, not classes, got {classes!r}")
        if text is None and self.classes:
            each = range(len(self.classes)) if classes is None else several(classes)
            text = [self.classes[choose_number(one, self.classes, "class")] for one in each]
        if style is None or text is None:
            return text
        behind = self.style(style)
        return [f"{one}, {behind}" for one in checked(text)]

    def style(self, name: Any) -> str:
        """The style of this name, in any case, or that alone begins with it. Raises ValueError
        for one that is none, and for one that could be several."""
        if not self.styles:
            raise ValueError(f"this pipeline knows no styles, got {name!r}")
        index = find(name, self.styles, "style")
        begins = [s for s in self.styles if s.casefold().startswith(str(name).casefold())]
        if index is None and len(begins) == 1 and name:
            return begins[0]
        if index is None:
            near = did_you_mean(str(name), self.styles)
            raise ValueError(f"style must be one of {', '.join(self.styles)}, got {name!r}{near}")
        return self.styles[index]
