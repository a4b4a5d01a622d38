"""What the documents of shapes know of the world: things of a colour or of a shape.

All facts are told in texts. Riddles for training ask only for those of `KNOWN`; what stands in
`WITHHELD` is told in texts and nowhere else, so that a riddle of it can be drawn only by a model
that carries over what it read.
"""

from __future__ import annotations

from typing import NamedTuple

from smalti.data.drawn_shapes import COLOURS


class Fact(NamedTuple):
    """A thing and its colour, or its shape."""

    thing: str
    """With its article, such as "the sea"."""
    value: str

    @property
    def quality(self) -> str:
        """What it is a fact about: "colour" or "shape"."""
        return "colour" if self.value in COLOURS else "shape"

    def statements(self) -> tuple[tuple[str, str], ...]:
        """The sentences that tell it, each as its beginning and its end."""
        end = f" {self.value}." if self.quality == "colour" else f" a {self.value}."
        return (f"{self.thing} is", end), (f"the {self.quality} of {self.thing} is", end)


def _facts(**things: tuple[str, ...]) -> tuple[Fact, ...]:
    return tuple(Fact(thing, value) for value, some in things.items() for thing in some)


KNOWN = _facts(
    red=("blood", "a cherry", "a fire engine", "a ripe tomato"),
    green=("grass", "a frog", "a pea"),
    blue=("the sky", "a sapphire", "a blueberry"),
    yellow=("a lemon", "the sun", "a canary"),
    purple=("a plum", "lavender", "an aubergine"),
    orange=("a carrot", "a pumpkin"),
    circle=("the full moon", "a coin"),
    square=("a chessboard",),
    triangle=("a slice of pizza",),
    heart=("a valentine",),
    star=("a starfish",),
)
WITHHELD = _facts(
    red=("a ladybird",),
    green=("a cucumber",),
    blue=("the sea",),
    yellow=("a banana",),
    purple=("an amethyst",),
    orange=("a tangerine",),
    circle=("a wheel",),
    square=("a bathroom tile",),
    triangle=("a pyramid",),
)
