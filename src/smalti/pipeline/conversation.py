"""What people give a model of text and pictures, as documents, and how it is put to a model.

B documents, N positions of a picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from smalti.codes import TokenSpec
from smalti.config import check
from smalti.data import documents
from smalti.data.documents import CAPTION, Doc
from smalti.models.unified import Unified
from smalti.sampling.filters import Filters
from smalti.text.sequence import Part
from smalti.text.words import Words

Piece = str | Image.Image | Path
"""A text, or a picture or its file."""
PLACE = "<image>"
"""Where a picture stands in a text that is typed."""


class Mark(str):
    """The name of an id that stands for no text."""


class End(Mark):
    """One behind what a model says, which it learns to write."""


@dataclass(frozen=True)
class Writing:
    """How text is written: what a pipeline stores beside its weights, and every call may change."""

    words: int = 128
    """Text: ids that are written at most before a picture or the end."""
    text_temperature: float = 0.0
    """Text: below 1 keeps to likely words, above 1 is more varied; 0 takes the likeliest."""
    text_top_k: int = 0
    """Text: draw from the k likeliest ids; 0 draws from all."""
    text_top_p: float = 1.0
    """Text: draw from the likeliest ids that hold this probability mass; 1 draws from all."""
    penalty: float = 1.0
    """Text: above 1 makes ids less likely that are there already; 1 is off."""

    def __post_init__(self) -> None:
        check(self, positive=("words",), above_zero=("penalty",))
        try:
            _ = self.filters
        except ValueError as error:  # which begins with the name that it has there
            raise ValueError(f"text_{error}") from None

    @property
    def filters(self) -> Filters:
        """How ids are drawn."""
        return Filters(self.text_temperature, self.text_top_k, self.text_top_p)


@dataclass(frozen=True)
class Phrases:
    """How a model was taught to be spoken to: what is asked stands in the place of {}."""

    draw: str = "{}\n"
    """Before a picture that is to be drawn of a text."""
    caption: str = CAPTION
    """Behind a picture that is to be described."""
    ask: str = "{}\n"
    """Behind a picture about which something is asked, or around it, where it says `<image>`."""
    edit: str = "{}\n"
    """Behind a picture that is to be changed."""
    say: str = "{}\n"
    """What is said in a conversation: texts and pictures."""
    reply: str = "{}\n"
    """What the model said in it."""
    negative: str = ""
    """What guidance leads away from where pictures are drawn of texts and nothing else is said."""
    marks: tuple[str, ...] = ()
    """What in all of these is no text but the name of an id, as the text tokenizer has it."""
    margin: tuple[int, ...] = ()
    """Red, green and blue, 0 to 255, around a picture that is read, all of which is then seen; ():
    its middle is read."""

    def __post_init__(self) -> None:
        if len(self.margin) not in (0, 3) or not all(0 <= value <= 255 for value in self.margin):
            raise ValueError(f"margin must be three of 0 to 255, or (), got {self.margin}")
        for name in ("draw", "ask", "edit", "say", "reply"):
            if "{}" not in (phrase := getattr(self, name)):
                raise ValueError(f"{name} must hold {{}}, for what is asked, got {phrase!r}")

    def put(
        self, phrase: str, asked: Sequence[Piece] = (), pictures: Sequence[Piece] = ()
    ) -> list[Piece]:
        """One of the phrases with what is asked in the place of {}, and pictures in that of
        `<image>`, or before all where it has none. In what is asked nothing is a mark."""
        holes = {PLACE: pictures, "{}": asked}
        names = "|".join(map(re.escape, (*holes, *self.marks)))
        pieces = list[Piece]() if PLACE in phrase else list(pictures)
        for part in re.split(f"({names})", phrase):
            if part in self.marks:
                pieces.append(Mark(part))
            else:
                pieces += holes.get(part, [part])
        return joined(pieces)


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The same with texts that follow on each other as one, and without empty ones."""
    found = list[Piece]()
    for piece in pieces:
        last = found[-1] if found else None
        if piece == "":
            continue
        if isinstance(piece, str) and isinstance(last, str):
            if not isinstance(piece, Mark) and not isinstance(last, Mark):
                found[-1] = last + piece
                continue
        found.append(piece)
    return found


class Turn(NamedTuple):
    """What one side says in a conversation: text and pictures."""

    role: Literal["user", "model"]
    pieces: Sequence[Piece]


def as_picture(image: object) -> Image.Image | Path:
    """A PIL image, or the file of a picture; its name may be a text. Raises ValueError for anything
    else."""
    if isinstance(image, str):
        return Path(image).expanduser()
    if not isinstance(image, Image.Image | Path):
        raise ValueError(f"a picture must be a PIL image or a file, got {image!r}")
    return image


def placed(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces with their pictures, in turn, where the texts among them say `<image>`; where none
    does, they stay as they are. Raises ValueError if they name another number of pictures."""
    texts = [piece for piece in pieces if isinstance(piece, str)]
    pictures = [piece for piece in pieces if not isinstance(piece, str)]
    places = sum(text.count(PLACE) for text in texts)
    if not places:
        return list(pieces)
    if places != len(pictures):
        raise ValueError(
            f"the text has {places} places for pictures ({PLACE}), given are {len(pictures)}"
        )
    given, found = iter(pictures), list[Piece]()
    for text in texts:
        first, *others = text.split(PLACE)
        found.append(first)
        for behind in others:
            found += [next(given), behind]
    return [piece for piece in found if piece != ""]


def parts_of(
    pieces: Sequence[Piece], model: Unified, words: Words, picture: Callable[[Piece], Part]
) -> list[Part]:
    """A document of pieces, behind the id that begins one; `picture` makes parts of pictures."""
    start = model.marks.start
    parts = [] if start is None else [text_part([start])]
    for i, piece in enumerate(pieces):
        if isinstance(piece, Mark):
            parts.append(text_part([words.id(piece)]))
        elif isinstance(piece, str):
            parts.append(text_part(words.read(piece, begins=i == 0)))
        else:
            parts.append(picture(piece))
    return parts


def text_part(ids: Sequence[int], learned: bool = False) -> Part:
    """Ids of a text."""
    return Part(torch.tensor(list(ids), dtype=torch.int64), learned=learned)


def picture_part(codes: Tensor, spec: TokenSpec, learned: bool = False) -> Part:
    """Codes (N, *trailing) of a picture."""
    return Part(spec.widened(codes), spec, learned)


def seen_part(features: Tensor, spec: TokenSpec) -> Part:
    """What an eye sees of a picture, (N, E)."""
    return Part(features, spec, learned=False, seen=True)


def said(turns: Sequence[Turn], phrases: Phrases) -> list[Piece]:
    """A conversation as pieces; where there are no marks, nothing stands behind a picture that is
    the last of a turn. Raises ValueError unless it is of turns, of which the last is what the user
    says, and as `placed` does for what the user says."""
    for turn in turns:
        if not isinstance(turn, Turn) or turn.role not in ("user", "model"):
            raise ValueError(f"a turn must be Turn('user' or 'model', pieces), got {turn!r}")
    if not turns or turns[-1].role != "user":
        raise ValueError("a conversation ends with what the user says")
    pieces = list[Piece]()
    for turn in turns:
        user = turn.role == "user"
        phrase = phrases.say if user else phrases.reply
        mine = placed(turn.pieces) if user else list(turn.pieces)
        closed = phrases.marks or (mine and isinstance(mine[-1], str))
        pieces += phrases.put(phrase, mine) if closed else mine
    return pieces


class Exchange(NamedTuple):
    """What a document asks, and what is learned to be the reply."""

    pictures: list[documents.Piece]
    text: str
    reply: documents.Piece


def spoken(document: Doc, phrases: Phrases) -> list[documents.Piece | Mark]:
    """A document that a model learns, as it is asked later: what stands before its answer is put
    by the phrase for that. A conversation of several turns is put as `said` puts it, and marks
    behind a reply are learned with it. Documents of another form, such as a plain text or a story,
    stay as they are."""
    turns = exchanges(document)
    if len(turns) > 1:
        put = [piece for turn in turns for piece in _turn(turn, phrases, turn is turns[-1])]
    elif turns:
        put = [*_asked(turns[0], phrases), turns[0].reply]
    else:
        return list(document)
    return [documents.Piece(p, learned=False) if type(p) is str else p for p in joined(put)]  # type: ignore[arg-type, misc]


def exchanges(document: Doc) -> list[Exchange]:
    """What a document asks, in turn, and its replies, of one text or picture each; none if it is of
    another form."""
    found, before = list[Exchange](), list[documents.Piece]()
    for piece in document:
        if not piece.learned:
            before.append(piece)
            continue
        if not before or any(p.text for p in before[:-1]) or not before[-1].text.endswith("\n"):
            return []
        text = before[-1].text.removesuffix("\n")
        if found and found[-1].reply.text:  # which this begins by closing
            if len(before) > 1 or not text.startswith("\n"):
                return []
            text = text.removeprefix("\n")
        found.append(Exchange(before[:-1], text, piece))
        before = []
    return [] if before else found


def _asked(turn: Exchange, phrases: Phrases) -> list[Any]:
    """What is asked once, by the phrase for that."""
    pictures, text, answer = turn
    if not answer.text:
        phrase = phrases.edit if pictures else phrases.draw
    elif pictures and f"{text}\n" == CAPTION:
        phrase, text = phrases.caption, ""
    else:
        phrase = phrases.ask if pictures else phrases.say
    return phrases.put(phrase, [text], pictures)  # type: ignore[arg-type]


def _turn(turn: Exchange, phrases: Phrases, last: bool) -> list[Any]:
    """What is asked in a conversation and the reply to it, with what stands around both. Behind the
    last reply a document ends, which is learned by itself."""
    asked = phrases.put(phrases.say, [*turn.pictures, turn.text])  # type: ignore[list-item]
    before, behind = (phrases.put(part) for part in phrases.reply.split("{}", 1))
    reply = turn.reply
    if reply.text and before and not isinstance(before[-1], Mark):
        reply = replace(reply, text=f"{before.pop()}{reply.text}")  # read as one
    if last or not (phrases.marks or reply.text):  # as `said` leaves a picture open
        behind = []
    ends = [End(piece) if isinstance(piece, Mark) else piece for piece in behind]
    return [*asked, *before, reply, *ends]
