"""Documents of drawn shapes in every direction, each with an oracle that judges a model's answer.

`shapes-all:COUNT` mixes, in turns of sixteen: captions to draw and pictures to describe, questions
about one to three shapes, and all that there is of them, instructions to edit, stories in which
one shape changes, conversations, facts of the world, and riddles: "draw a small heart in the colour
of the sea at the top left", whose colour texts alone tell. Some facts are told in texts and nowhere
else, so that no riddle of training was drawn with them (`shape_facts`). Texts tell a fact as such,
or by a riddle in words: "a small heart in the colour of the sea at the top left is a small blue
heart at the top left."
Document i depends on the seed and i alone.
`shapes-all:COUNT:TASK,TASK` takes turns of these tasks alone.

A document is written down as a `Script` first, whose last part is the answer; pictures are drawn
when it is read. Shapes of one picture keep their jitter when one of their attributes changes, so
that an edit has one right result to the pixel, and `check` can ask whether the rest was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from smalti.data.documents import CAPTION, Doc, Documents, Piece, asked
from smalti.data.drawn_shapes import PIXELS, POSITIONS, Attributes, recognise
from smalti.data.shape_facts import KNOWN, WITHHELD, Fact
from smalti.data.shape_scenes import MOST, VALUES, Scene, any_scene, one_of
from smalti.data.source import digest
from smalti.data.transforms import center_crop

TASKS = (
    *("draw", "caption", "ask", "edit", "riddle", "describe"),
    *("questions", "edit", "questions", "story", "fact", "describe"),
    *("talk", "questions", "talk", "questions"),
)
"""Document i is of the task i modulo their number."""
CROWDS = (1, 2, 2, 3, 3, 3)
"""How many shapes a picture has about which much is said, each as likely: which shape has what is
learned from those of several."""
QUESTIONS = 12
"""At most so many about one picture."""
FACTS_TOLD = 4
"""So many in a document."""
PICTURES = 3
"""At most so many in a conversation: they fill a row."""
COUNTS = ("one", "two", "three")
"""How many shapes a picture has, in words."""
ALL = "What is there?"
"""Asks for the captions of all shapes."""
KEPT = 5.0
"""So many levels of 255, on average, may what an edit should keep differ from what it was."""

Content = str | Scene


class Script(NamedTuple):
    """A document before its pictures are drawn."""

    task: str
    parts: tuple[tuple[Content, bool], ...]
    """Texts and pictures, and whether each is learned. The last one is the answer."""

    @property
    def answer(self) -> Content:
        return self.parts[-1][0]


# -- what is asked


def _change(rng: np.random.Generator, shape: Attributes) -> tuple[str, str]:
    """An attribute and another value of it."""
    attribute = one_of(rng, list(VALUES))
    others = [v for v in VALUES[attribute] if v != getattr(shape, attribute)]
    return attribute, one_of(rng, others)


def draw_script(rng: np.random.Generator, seed: tuple[int, ...]) -> Script:
    """A caption, and its picture to draw."""
    scene = any_scene(rng, seed)
    return Script("draw", ((asked(scene.shapes[0].caption), False), (scene, True)))


def caption_script(rng: np.random.Generator, seed: tuple[int, ...]) -> Script:
    """A picture, and its caption to write."""
    scene = any_scene(rng, seed)
    return Script("caption", ((scene, False), (CAPTION, False), (scene.shapes[0].caption, True)))


def questions(shapes: Sequence[Attributes]) -> dict[str, list[tuple[str, str]]]:
    """What can be asked about a picture of these shapes with one right answer: (question, answer)
    by kind."""
    colours, kinds = ([getattr(s, name) for s in shapes] for name in ("colour", "shape"))
    own = [s for s in shapes if kinds.count(s.shape) == 1]
    bright = [s for s in shapes if colours.count(s.colour) == 1]
    found = {
        "how many": [("How many shapes are there?", COUNTS[len(shapes) - 1])],
        "colour": [(f"What colour is the {s.shape}?", s.colour) for s in own],
        "shape": [(f"Which shape is {s.colour}?", s.shape) for s in bright]
        + [(f"Which shape is {s.position}?", s.shape) for s in shapes],
        "where": [(f"Where is the {s.shape}?", s.position) for s in own],
        "size": [(f"How large is the {s.shape}?", s.size) for s in shapes if len(shapes) == 1],
    }
    return {kind: some for kind, some in found.items() if some}


def ask_script(rng: np.random.Generator, seed: tuple[int, ...]) -> Script:
    """A picture of one to three shapes, a question about it, and the answer to write."""
    scene = any_scene(rng, seed, int(rng.integers(1, MOST + 1)))
    question, answer = one_of(rng, one_of(rng, list(questions(scene.shapes).values())))
    return Script("ask", ((scene, False), (asked(question), False), (answer, True)))


def questions_script(rng: np.random.Generator, seed: tuple[int, ...]) -> Script:
    """A picture of one to three shapes, and some questions about it, each with the answer to
    write. A picture costs many positions and an answer few, so much is learned of one. As after
    any number of questions there may be no more, an answer's end is learned in all of them."""
    scene = any_scene(rng, seed, one_of(rng, CROWDS))
    some = [pair for pairs in questions(scene.shapes).values() for pair in pairs]
    parts: list[tuple[Content, bool]] = [(scene, False)]
    for i in rng.permutation(len(some))[: rng.integers(1, QUESTIONS + 1)]:
        question, answer = some[i]
        before = "\n" if len(parts) > 1 else ""  # as in a conversation
        parts += [(before + asked(question), False), (answer, True)]
    return Script("questions", tuple(parts))


def describe_script(rng: np.random.Generator, seed: tuple[int, ...]) -> Script:
    """A picture of one to three shapes, and the captions of all of them to write, as one reads:
    line by line from the left. Many words of an answer teach what few questions would."""
    scene = any_scene(rng, seed, one_of(rng, CROWDS))
    told = ", ".join(shape.caption for shape in sorted(scene.shapes, key=_reading))
    return Script("describe", ((scene, False), (asked(ALL), False), (told, True)))


def _reading(shape: Attributes) -> tuple[float, float]:
    """What orders shapes as one reads them."""
    x, y = POSITIONS[shape.position]
    return y, x


def edit_script(rng: np.random.Generator, seed: tuple[int, ...]) -> Script:
    """A picture, an instruction, and the picture after it to draw."""
    scene = any_scene(rng, seed)
    order, after = _ordered(rng, scene)
    return Script("edit", ((scene, False), (asked(order), False), (after, True)))


def _ordered(rng: np.random.Generator, scene: Scene) -> tuple[str, Scene]:
    """An instruction to change the shape of a scene, and the scene after it."""
    attribute, value = _change(rng, scene.shapes[0])
    what = one_of(rng, ("it", f"the {scene.shapes[0].shape}"))
    order = {
        "shape": f"make {what} a {value}",
        "position": f"move {what} to {value.partition(' ')[2]}",
    }.get(attribute, f"make {what} {value}")
    return order, scene.changed(attribute, value)


def talk_script(rng: np.random.Generator, seed: tuple[int, ...]) -> Script:
    """A conversation about a shape that is drawn or shown at first: two to four times it is asked
    about, changed, or another one is to be drawn. All replies are learned."""
    scene, parts = any_scene(rng, seed), list[tuple[Content, bool]]()
    shown, asks = int(rng.integers(2)), int(rng.integers(2, 5))
    parts += [(scene, False)] if shown else []
    for turn in range(asks):
        before = "\n" if parts and isinstance(parts[-1][0], str) else ""  # behind a reply in words
        pictures = sum(not isinstance(content, str) for content, _ in parts)
        wish = "draw" if not parts else one_of(rng, ("ask", "ask", "edit", "draw"))
        if wish == "ask" or pictures == PICTURES:
            some = [pair for pairs in questions(scene.shapes).values() for pair in pairs]
            question, answer = one_of(rng, [*some, (ALL, scene.shapes[0].caption)])
            parts += [(before + asked(question), False), (answer, True)]
            continue
        if wish == "edit":
            order, scene = _ordered(rng, scene)
        else:
            scene = any_scene(rng, (*seed, turn))
            order = scene.shapes[0].caption
        parts += [(before + asked(order), False), (scene, True)]
    return Script("talk", tuple(parts))


def story_script(rng: np.random.Generator, seed: tuple[int, ...]) -> Script:
    """A caption and its picture, and once or twice what changes and the picture after it; all but
    the first caption is learned."""
    scene = any_scene(rng, seed)
    parts: list[tuple[Content, bool]] = [(asked(scene.shapes[0].caption), False), (scene, True)]
    for _ in range(int(rng.integers(1, 3))):
        attribute, value = _change(rng, scene.shapes[0])
        scene = scene.changed(attribute, value)
        parts += [(f"now it is {'a ' * (attribute == 'shape')}{value}", True), (scene, True)]
    return Script("story", tuple(parts))


def fact_script(rng: np.random.Generator, seed: tuple[int, ...]) -> Script:
    """Sentences that tell facts, all of it learned; the end of the last one is the answer. A third
    of them say a riddle in plain words."""
    facts = KNOWN + WITHHELD
    some = [facts[i] for i in rng.choice(len(facts), FACTS_TOLD, replace=False)]
    told = [one_of(rng, (*fact.statements(), _in_words(rng, seed, fact))) for fact in some]
    before = "".join(f"{beginning}{end} " for beginning, end in told[:-1])
    beginning, end = told[-1]
    return Script("fact", ((before + beginning, True), (end, True)))


def riddle_script(
    rng: np.random.Generator, seed: tuple[int, ...], facts: Sequence[Fact] = KNOWN
) -> Script:
    """A caption that names a colour or a shape by a thing that has it, and its picture to draw."""
    riddle, scene = _riddle(rng, seed, one_of(rng, facts))
    return Script("riddle", ((asked(f"draw {riddle}"), False), (scene, True)))


def _riddle(rng: np.random.Generator, seed: tuple[int, ...], fact: Fact) -> tuple[str, Scene]:
    """A caption that needs a fact, and the scene that it stands for."""
    scene = any_scene(rng, seed).changed(fact.quality, fact.value)
    (shape,) = scene.shapes
    what = shape.shape if fact.quality == "colour" else f"{shape.colour} thing"
    return f"a {shape.size} {what} in the {fact.quality} of {fact.thing} {shape.position}", scene


def _in_words(rng: np.random.Generator, seed: tuple[int, ...], fact: Fact) -> tuple[str, str]:
    """A riddle and what it stands for, as the beginning and the end of a sentence."""
    riddle, scene = _riddle(rng, seed, fact)
    return f"{riddle} is", f" {scene.shapes[0].caption}."


SCRIPTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Script]] = {
    "draw": draw_script,
    "caption": caption_script,
    "ask": ask_script,
    "questions": questions_script,
    "describe": describe_script,
    "edit": edit_script,
    "story": story_script,
    "talk": talk_script,
    "fact": fact_script,
    "riddle": riddle_script,
    "withheld riddle": lambda rng, seed: riddle_script(rng, seed, WITHHELD)._replace(
        task="withheld riddle"
    ),
}
"""What writes a document of each task. Withheld riddles are for measuring: `TASKS` has none."""
LEARNED = tuple(task for task in SCRIPTS if task != "withheld riddle")
"""Tasks that a model may learn."""


# -- the documents


def open_shapes_all(options: str = "") -> ShapeDocuments:
    """'' for 10,000 documents, or their number, and behind a colon the tasks that take turns.

    Raises ValueError for anything else.
    """
    count, _, names = options.partition(":")
    tasks = tuple(names.split(",")) if names else TASKS
    if options and (not count.isdecimal() or int(count) < 1 or set(tasks) - set(LEARNED)):
        raise ValueError(
            f"shapes-all:{options} is not known; allowed: shapes-all, shapes-all:COUNT (1 or "
            f"more), shapes-all:COUNT:TASK,... of {', '.join(LEARNED)}"
        )
    name = f"shapes-all:{options}" if options else "shapes-all"
    return ShapeDocuments(int(count or 10_000), tasks=tasks, name=name)


class ShapeDocuments(Documents):
    """`count` documents with pictures of `pixels` square, of the tasks in turns.

    Raises ValueError if there are no documents, or for a task that is not one of `SCRIPTS`.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        tasks: Sequence[str] = TASKS,
        pixels: int = PIXELS,
        name: str = "shapes-all",
    ) -> None:
        wrong = sorted(set(tasks) - SCRIPTS.keys())
        if count < 1 or not tasks or wrong:
            raise ValueError(
                f"need a count of 1 or more and tasks among {', '.join(SCRIPTS)}, got {count} "
                f"and {', '.join(wrong) or 'none'}"
            )
        self.name, self.count, self.seed, self.pixels = name, count, seed, pixels
        self.tasks = tuple(tasks)
        self.skipped: dict[str, str] = {}
        self.tokenizers, self.eyes = tuple[str, ...](), tuple[str, ...]()

    def __len__(self) -> int:
        return self.count

    def script(self, i: int) -> Script:
        """Document i before its pictures are drawn, which its oracle reads."""
        if not 0 <= i < self.count:
            raise IndexError(f"{self.name} has {self.count} documents, got {i}")
        seed = (self.seed, i)
        return SCRIPTS[self.task(i)](np.random.default_rng(seed), seed)

    def __getitem__(self, i: int) -> Doc:
        return [
            Piece(content, learned=learned)
            if isinstance(content, str)
            else Piece(image=content.draw(self.pixels), learned=learned)
            for content, learned in self.script(i).parts
        ]

    def texts(self, i: int) -> list[str]:
        return [content for content, _ in self.script(i).parts if isinstance(content, str)]

    def task(self, i: int) -> str:
        return self.tasks[i % len(self.tasks)]

    def key(self, i: int) -> str:
        return str(i)

    def fingerprint(self) -> str:
        some = [self[i] for i in range(min(2 * len(self.tasks), self.count))]
        told = [
            [p.text or np.asarray(p.image).tobytes().hex() for p in document] for document in some
        ]  # they change with seed, pixels and the ways of writing and drawing
        return digest([self.count, self.seed, self.pixels, self.tasks, told])


# -- the oracles


def check(script: Script, made: str | np.ndarray) -> bool:
    """Whether a model's answer to a document is right: what it wrote, or uint8 pixels (H, H, 3).

    A text must be the answer, whatever blanks stand around it. A picture must show all four
    attributes; that of an edit must also keep what the instruction leaves alone (`distance`).
    """
    answer = script.answer
    if isinstance(answer, str) or isinstance(made, str):
        return isinstance(answer, str) and isinstance(made, str) and made.split() == answer.split()
    if recognise(made) != answer.shapes[0]:
        return False
    return script.task != "edit" or distance(script, made) <= KEPT


def distance(script: Script, made: np.ndarray) -> float:
    """How far the drawn picture of an edit, uint8 (H, H, 3), is from the given one where the
    instruction changes nothing: the mean difference of a pixel's colours, in levels of 255.

    Raises ValueError if the document is no edit.
    """
    before, *_, after = (content for content, _ in script.parts)
    if script.task != "edit" or isinstance(before, str) or isinstance(after, str):
        raise ValueError(f"only an edit keeps a part of a picture, got a task {script.task!r}")
    old, new = (center_crop(s.draw(), len(made)).astype(np.float64) for s in (before, after))
    kept = np.abs(old - new).max(-1) < 1
    return float(np.abs(made.astype(np.float64) - old)[kept].mean())
