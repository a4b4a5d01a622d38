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
        """Sentences that tell it, each as its beginning and its end."""
        end = f" {self.value}." if self.quality == "colour" else f" a {self.value}."
        return (f"{self.thing} is", end), (f"the {self.quality} of {self.thing} is", end)


def _facts(**things: tuple[str, ...]) -> tuple[Fact, ...]:
    return tuple(Fact(thing, value) for value, some in things.items() for thing in some)


KNOWN = _facts(
    red=(
        *("blood", "a cherry", "a fire engine", "a ripe tomato"),
        *("a strawberry", "a ruby", "a poppy", "a stop sign"),
    ),
    green=(
        *("grass", "a frog", "a pea", "an emerald"),
        *("a lime", "spinach", "moss", "broccoli"),
    ),
    blue=(
        *("the sky", "a sapphire", "a blueberry", "a cornflower"),
        *("a forget-me-not", "a kingfisher", "cobalt", "lapis lazuli"),
    ),
    yellow=(
        *("a lemon", "the sun", "a canary", "a chick"),
        *("a buttercup", "an egg yolk", "mustard", "sulphur"),
    ),
    purple=(
        *("a plum", "lavender", "an aubergine", "a violet"),
        *("a fig", "heather", "beetroot", "a thistle"),
    ),
    orange=(
        *("a carrot", "a pumpkin", "an apricot", "amber"),
        *("a clownfish", "rust", "a persimmon", "a marigold"),
    ),
    circle=(
        *("the full moon", "a coin", "a dinner plate", "a button"),
        *("a compact disc", "a bicycle tyre", "a roundabout", "a hoop"),
    ),
    square=(
        *("a chessboard", "a sudoku", "a floppy disk", "a sticky note"),
        *("a slice of toast", "a handkerchief", "a paving slab", "a napkin"),
    ),
    triangle=(
        *("a slice of pizza", "a yield sign", "a tortilla chip", "a pennant"),
        *("a gable", "the fin of a shark", "a coat hanger", "a wedge of cheese"),
    ),
    heart=(
        *("a valentine", "a token of love", "the symbol of romance", "an anthurium"),
        *("a linden leaf", "a catalpa leaf", "a philodendron leaf", "a katsura leaf"),
    ),
    star=(
        *("a starfish", "a pentagram", "the badge of a sheriff", "a slice of carambola"),
        *("an edelweiss", "a compass rose", "the top of a christmas tree", "a spur"),
    ),
)
WITHHELD = _facts(
    red=("a ladybird", "a cranberry", "a boiled lobster"),
    green=("a cucumber", "a cactus", "a grasshopper"),
    blue=("the sea", "denim", "a gentian"),
    yellow=("a banana", "a daffodil", "sweetcorn"),
    purple=("an amethyst", "a lilac", "an iris"),
    orange=("a tangerine", "a tiger", "a basketball"),
    circle=("a wheel", "a pancake", "a frisbee"),
    square=("a bathroom tile", "a boxing ring", "a pixel"),
    triangle=("a pyramid", "a samosa", "a sail"),
    heart=("a redbud leaf", "the locket of a lover", "a cyclamen leaf"),
    star=("a shuriken", "a borage flower", "a caltrop"),
)
