"""How what people ask is put to a model: phrases with marks, pictures, conversations."""

from pathlib import Path

import pytest

from smalti.data.shape_documents import ShapeDocuments
from smalti.pipeline.conversation import Mark, Phrases, Turn, joined, placed, said

PICTURE, OTHER = Path("a.png"), Path("b.png")
GEMMA = Phrases(
    ask="<turn>user\n<image>\n{}<over>\n<turn>model\n",
    say="<turn>user\n{}<over>\n<turn>model\n",
    reply="{}<over>\n",
    marks=("<turn>", "<over>"),
)


def kinds(pieces) -> list[str]:
    """Pieces with marks in brackets."""
    return [f"[{p}]" if isinstance(p, Mark) else p for p in pieces]


def test_marks_are_those_of_phrases_and_never_of_what_is_asked():
    pieces = GEMMA.put(GEMMA.ask, ["is <over> {} text?"], [PICTURE])
    assert kinds(pieces) == [
        "[<turn>]", "user\n", PICTURE, "\nis <over> {} text?", "[<over>]", "\n", "[<turn>]",
        "model\n",
    ]  # fmt: skip
    plain = Phrases(ask="Q: {} A:")
    assert plain.put(plain.ask, ["<over>?"], [PICTURE]) == [PICTURE, "Q: <over>? A:"]


def test_several_pictures_and_none():
    assert GEMMA.put(GEMMA.ask, ["?"], [PICTURE, OTHER])[2:4] == [PICTURE, OTHER]
    asked = placed([PICTURE, "<image> and <image>", OTHER])
    assert kinds(GEMMA.put(GEMMA.ask, asked))[1:5] == ["user\n\n", PICTURE, " and ", OTHER]


def test_a_conversation():
    turns = [Turn("user", ["hello", PICTURE]), Turn("model", ["yes"]), Turn("user", ["and"])]
    user, model = ["[<over>]", "\n", "[<turn>]", "model\n"], ["yes", "[<over>]", "\n"]
    first = ["[<turn>]", "user\nhello", PICTURE, *user]
    assert kinds(said(turns, GEMMA)) == [*first, *model, "[<turn>]", "user\nand", *user]
    assert said(turns, Phrases()) == ["hello", PICTURE, "yes\n", "and\n"]
    with pytest.raises(ValueError, match="ends with what the user says"):
        said(turns[:2], GEMMA)
    asked = Turn("user", [PICTURE, "is <image> red?"])
    heard = said([asked, Turn("model", ["an <image>"]), Turn("user", ["and?"])], Phrases())
    assert heard == ["is ", PICTURE, " red?\n", "an <image>\n", "and?\n"]
    with pytest.raises(ValueError, match="the text has 1 places for pictures"):
        said([Turn("user", ["what is in <image>?"])], Phrases())
    for wrong in ("hello", {"role": "user", "content": "hello"}, Turn("assistant", ["hello"])):
        with pytest.raises(ValueError, match="a turn must be Turn\\('user' or 'model', pieces\\)"):
            said([wrong], Phrases())


def test_texts_that_follow_on_each_other_are_one():
    assert joined(["a", "", "b", Mark("m"), Mark("n"), "c", PICTURE, "d"]) == [
        "ab", "m", "n", "c", PICTURE, "d",
    ]  # fmt: skip


def test_a_phrase_needs_a_place():
    with pytest.raises(ValueError, match="reply must hold {}, for what is asked, got 'yes'"):
        Phrases(reply="yes")


@pytest.mark.parametrize("task", ["draw", "riddle", "edit", "ask", "describe"])
def test_what_is_said_is_put_as_documents_have_it(task):
    """Whether a picture or an answer follows, a model tells from the words."""
    phrases, documents = Phrases(), ShapeDocuments(4, tasks=(task,))
    assert phrases.draw == phrases.edit == phrases.ask == phrases.say
    for i in range(4):
        *before, _ = (piece.text or piece.image for piece in documents[i])
        plain = [piece.strip() if isinstance(piece, str) else piece for piece in before]
        assert said([Turn("user", plain)], phrases) == before


def test_a_conversation_is_put_as_documents_of_conversations_have_it():
    documents = ShapeDocuments(20, tasks=("talk",))
    for i in range(20):
        *before, _ = documents[i]
        turns = list[Turn]()
        for piece in before:
            role, plain = "model" if piece.learned else "user", piece.image or piece.text.strip()
            if turns and turns[-1].role == role:
                turns[-1] = Turn(role, [*turns[-1].pieces, plain])
            else:
                turns.append(Turn(role, [plain]))
        assert joined(said(turns, Phrases())) == joined([p.image or p.text for p in before])
