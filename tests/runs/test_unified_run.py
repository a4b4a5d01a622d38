"""Runs of text and pictures: what is left out of documents, and what a pipeline says of itself."""

from types import SimpleNamespace
from typing import Any

import torch

from smalti.data.document_batches import DocumentBatches, Packing
from smalti.data.documents import CAPTION, Piece, open_documents
from smalti.data.emoji import CREDIT
from smalti.models import show_o
from smalti.models.one_vocabulary import OneVocabulary, tiny
from smalti.pipeline.conversation import (
    End,
    Mark,
    Phrases,
    Turn,
    exchanges,
    parts_of,
    picture_part,
    said,
    spoken,
)
from smalti.runs.unified import Reader, origin, wrapped
from smalti.text.sequence import Part
from smalti.text.words import Words

WORDS = Words.train(["a red heart", "make it blue"], 280)


def reader(document: list[Piece], model: Any = None, share: float = 0.1) -> Reader:
    cache: Any = SimpleNamespace(document=lambda i: document)
    model = model or OneVocabulary(tiny())
    pipeline: Any = SimpleNamespace(model=model, words=WORDS, phrases=Phrases())
    return Reader(cache, pipeline, share)


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


def test_what_is_left_out_never_makes_a_document_longer():
    """A row holds documents as long as they are whole: one that grew would cut a picture."""
    model = show_o.ShowO(show_o.tiny())
    alone = reader([Piece(codes=model.spec.empty(1)[0])], model, 0.5)
    whole, count = alone.length(0), model.spec.positions
    assert (
        model.wrapping.size([*model.nothing(alone.document(0)[:-1]), alone.document(0)[-1]]) > whole
    )
    assert model.wrapping.size(alone(0, 0.0)) == whole
    packing = Packing(model.wrapping, 2 * whole, 2, model.marks.pad)
    made = DocumentBatches(range(8), [whole] * 8, alone, packing).batch(0)
    found = model.config.wrapping.is_code(made["ids"], model.spec)
    assert found.sum() == 2 * 2 * count


def test_documents_are_learned_as_they_are_asked():
    """Those of shapes are written in the default phrases already; other phrases are put."""
    documents = open_documents("shapes-all:60")
    for i in range(len(documents)):
        texts = [
            Piece(codes=torch.zeros(6, dtype=torch.int64), learned=p.learned) if p.image else p
            for p in documents[i]
        ]
        assert [(p.text, p.learned) for p in spoken(texts, Phrases())] == [
            (p.text, p.learned) for p in texts
        ], documents.task(i)
    phrases = Phrases(
        draw="{} draw it", caption="what is it:", ask="<s>user\n<image>\n{}<e>", edit="do: {}",
        say="<s>{}<e>", marks=("<s>", "<e>"),
    )  # fmt: skip
    read = Piece(codes=torch.zeros(6, dtype=torch.int64), learned=False)
    drawn, answer = Piece(codes=torch.ones(6, dtype=torch.int64)), Piece("a red heart")

    def words(*document: Piece) -> list[Any]:
        pieces = spoken(list(document), phrases)
        assert pieces[-1] is document[-1]
        return [p if isinstance(p, Mark) else p.text or p.codes is read.codes for p in pieces[:-1]]

    def text(words: str) -> Piece:
        return Piece(words, learned=False)

    assert words(text("a red heart\n"), drawn) == ["a red heart draw it"]
    assert words(read, text(CAPTION), answer) == [True, "what is it:"]
    assert words(read, text("what?\n"), answer) == ["<s>", "user\n", True, "\nwhat?", "<e>"]
    assert words(read, text("make it blue\n"), drawn) == [True, "do: make it blue"]
    assert words(text("what colour?\n"), answer) == ["<s>", "what colour?", "<e>"]
    story = [text("a red heart\n"), drawn, Piece("now it is blue"), drawn]
    open_ = [text("what?\n"), answer, text("what?\n"), answer]  # nothing closes the first reply
    for other in ([Piece("the sea is blue")], story, open_, [read, text("what?\n")]):
        assert spoken(other, phrases) == other


def test_a_conversation_is_learned_as_it_is_put():
    marks = [name for name in WORDS.specials][:2]
    phrases = Phrases(
        say=f"{marks[0]}user: {{}}\nmodel:", reply=f" {{}}{marks[1]}\n", marks=tuple(marks)
    )
    model, codes = OneVocabulary(tiny()), torch.zeros(6, dtype=torch.int64)
    picture, red, blue = Piece(codes=codes), Piece("red"), Piece("a blue heart")
    asked = [Piece(f"{t}\n", learned=False) for t in ("draw it", "which?", "\nmake it blue", "so?")]
    document = [asked[0], picture, asked[1], red, asked[2], picture, asked[3], blue]
    pieces = spoken(document, phrases)
    assert [type(p) for p in pieces].count(End) == 3
    turns = [
        Turn("user", ["draw it"]), Turn("model", [codes]), Turn("user", ["which?"]),
        Turn("model", ["red"]), Turn("user", ["make it blue"]), Turn("model", [codes]),
        Turn("user", ["so?"]),
    ]  # fmt: skip
    *learned, answer, _ = wrapped(pieces, model, WORDS)
    put = parts_of(said(turns, phrases), model, WORDS, lambda c: picture_part(c, model.spec))  # type: ignore

    def ids(parts: list[Part]) -> list[int]:
        return [int(i) for part in parts for i in part.content]

    assert WORDS.write(ids(learned)) == WORDS.write(ids(put))
    names = {WORDS.id(mark) for mark in marks}
    assert [i for i in ids(learned) if i in names] == [i for i in ids(put) if i in names]
    assert WORDS.write(answer.content.tolist()) == " a blue heart" and answer.learned
    end, texts = WORDS.id(marks[1]), [part for part in learned if part.spec is None]
    told = [p.content.tolist() for p in texts if p.learned and end not in p.content]
    assert [WORDS.write(some) for some in told] == [" red"]
    assert [p.learned for p in texts if end in p.content] == [True] * 3
    assert not any(p.learned for p in texts if WORDS.id(marks[0]) in p.content)


def test_conversations_in_the_common_manner_stay_as_they_are():
    documents = open_documents("shapes-all:48:talk,questions")
    for i in range(48):
        texts = [
            Piece(codes=torch.zeros(6), learned=p.learned) if p.image else p for p in documents[i]
        ]
        assert len(exchanges(texts)) > 1 or len(texts) < 5
        assert [(p.text, p.learned) for p in spoken(texts, Phrases())] == [
            (p.text, p.learned) for p in texts
        ]


def test_a_document_begins_as_a_pipeline_asks():
    marks = [name for name in WORDS.specials][:2]
    phrases = Phrases(draw="{} draw it:", ask=marks[0] + "{}" + marks[1], marks=tuple(marks))
    model, codes = OneVocabulary(tiny()), torch.zeros(6, dtype=torch.int64)
    asked = {
        phrases.draw: [Piece("a red heart\n", learned=False), Piece(codes=codes)],
        phrases.ask: [
            Piece(codes=codes, learned=False),
            Piece("make it\n", learned=False),
            Piece("blue"),
        ],
    }
    for phrase, document in asked.items():
        *given, _ = document
        pictures = [p.codes for p in given if p.codes is not None]
        pieces: Any = phrases.put(phrase, [given[-1].text.strip()], pictures)  # type: ignore
        put = parts_of(pieces, model, WORDS, lambda c: picture_part(c, model.spec))  # type: ignore
        learned = wrapped(spoken(document, phrases), model, WORDS)[: len(put)]
        for mine, theirs in zip(learned, put, strict=True):
            assert torch.equal(mine.content, theirs.content) and not mine.learned


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
