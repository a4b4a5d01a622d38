"""Runs of text and pictures: what is left out of documents, and what a pipeline says of itself."""

from types import SimpleNamespace
from typing import Any

import torch

from smalti.data.documents import Piece
from smalti.data.emoji import CREDIT
from smalti.models.one_vocabulary import OneVocabulary, tiny
from smalti.runs.unified import Reader, origin
from smalti.text.sequence import Part
from smalti.text.words import Words

WORDS = Words.train(["a red heart", "make it blue"], 280)


def reader(document: list[Piece]) -> Reader:
    cache: Any = SimpleNamespace(document=lambda i: document)
    return Reader(cache, OneVocabulary(tiny()), WORDS, 0.1)


def kinds(document: Any) -> list[str]:
    return ["text" if part.spec is None else "picture" for part in document]


def test_conditions_are_left_out_at_their_share():
    codes = torch.zeros(6, dtype=torch.int64)
    picture = Piece(codes=codes)
    edit = reader([picture, Piece("make it blue", learned=False), picture])
    whole = ["text", "picture", "text", "picture", "text"]
    assert kinds(edit(0, 0.2)) == kinds(edit(0, 0.9)) == whole
    assert kinds(edit(0, 0.15)) == ["text", "picture", "picture", "text"]
    assert kinds(edit(0, 0.05)) == ["text", "picture", "text"]
    drawn = reader([Piece("a red heart", learned=False), picture])
    assert kinds(drawn(0, 0.15)) == ["text", "text", "picture", "text"]  # no pictures to keep
    assert kinds(drawn(0, 0.05)) == ["text", "picture", "text"]
    told = reader([picture, Piece("a red heart")])
    assert kinds(told(0, 0.0)) == ["text", "picture", "text", "text"]
    assert isinstance(told(0, 0.0)[-1], Part) and told(0, 0.0)[-1].learned


def test_whose_art_it_learned_from_is_said():
    def of(source: str, begun: Any = None) -> Any:
        cache: Any = SimpleNamespace(source=source, holdout=0.25)
        return origin(cache, begun)

    assert of("captioned:emoji+text:notes") == {
        "source": "captioned:emoji+text:notes", "credit": CREDIT, "holdout": 0.25
    }  # fmt: skip
    assert of("shapes-all:20") == {"source": "shapes-all:20", "holdout": 0.25}
    begun = SimpleNamespace(fingerprint="1-2-3", info={"credit": CREDIT})
    assert of("shapes-all:20", begun)["credit"] == CREDIT
    assert of("shapes-all:20", begun)["init"] == "1-2-3"
