"""A text tokenizer: what it reads comes back, marks are no text, and files are as released."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from smalti.text.words import MARKS, Words
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

TEXTS = [f"a {size} red {shape} in the sea" for size in ("small", "large") for shape in "xyz"]
TEXTS += ["Caption:\n", "déjà vu, 你好 世界 你好", "\U0001f600\U0001f600 smiles"]
FALLBACK = {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
BYTES = [f"<0x{i:02X}>" for i in range(256)]


@pytest.fixture(scope="module")
def words():
    return Words.train(TEXTS, 300)


# -- trained here


@given(text=st.text())
@example("</s> <s><pad> a\r\n\tb  c \ufffd\ufffd")
@example("é" * 3 + "e\u0301 \U0001f469\u200d\U0001f680 \u202e\x00")
def test_any_text_comes_back(words, text):
    ids = words.read(text)
    assert words.write(ids) == text
    assert words.read(text, begins=False) == ids
    assert words.write(ids, begins=False) == text
    assert words.written[ids].all() and not set(ids) & set(words.specials.values())


@given(text=st.text(max_size=30))
def test_pieces_of_a_stream_grow_to_the_whole(words, text):
    ids, shown = words.read(text), ""
    for end in range(len(ids)):
        now = words.write(ids[:end], whole=False)
        assert now.startswith(shown) and text.startswith(now)
        shown = now
    assert shown + words.write(ids)[len(shown) :] == text


def test_half_a_character_is_held_back(words):
    ids = words.read("a \u20ac")  # three bytes, none of which it has seen
    so_far = [words.write(ids[:n], whole=False) for n in range(1, len(ids) + 1)]
    assert so_far[-4:] == ["a ", "a ", "a ", "a \u20ac"]
    assert words.write(ids[:-1]) == "a \ufffd"


def test_training_is_deterministic_and_learns(words):
    again = Words.train(iter([*TEXTS, ""]), 300)
    assert again.fingerprint() == words.fingerprint() != Words.train(TEXTS, 301).fingerprint()
    assert words.vocab == 300 and len(words.read(" red")) == 1 and len(words.read(" wed")) == 3
    few = Words.train(["ab"], 300)
    assert few.vocab == 260  # all bytes, three marks, and the one pair there is


@pytest.mark.parametrize("mark", MARKS)
def test_marks_that_somebody_types_are_text(mark):
    seen = Words.train([f"{mark} and {mark}"] * 50, 300)
    for words in (seen, Words.train(["ab"], 259)):
        ids = words.read(f"x{mark} {mark}")
        assert not set(ids) & set(words.specials.values())
        assert words.write(ids) == f"x{mark} {mark}"
        assert words.write([words.id(mark), *ids, words.id(mark)]) == f"x{mark} {mark}"


def test_marks_have_their_ids(words):
    assert (words.start, words.stop, words.pad) == (0, 1, 2)
    assert words.specials == {"<s>": 0, "</s>": 1, "<pad>": 2} and words.model == "BPE"
    assert words.written.tolist() == [False] * 3 + [True] * 297


def test_ids_that_it_does_not_know_are_left_out(words):
    assert words.write([-1, *words.read("a"), 300, 10**6]) == "a"
    with pytest.raises(ValueError, match="the text tokenizer has no '<pat>'; did you mean '<pad>'"):
        words.id("<pat>")


def test_what_cannot_be_learned():
    with pytest.raises(ValueError, match="at least 259, for all bytes and 3 marks, got 258"):
        Words.train(TEXTS, 258)
    for texts in ([], ["", ""], ["</s>"]):
        with pytest.raises(ValueError, match="there are no texts to learn from"):
            Words.train(texts, 300)


def test_half_a_character_is_no_text(words):
    with pytest.raises(ValueError, match="texts are of whole characters, got"):
        words.read("a\udcff")


# -- files


def test_it_is_read_from_its_file_its_folder_and_that_of_a_run(words, tmp_path):
    words.save(tmp_path / "run" / "words")
    words.save(tmp_path / "run" / "words")  # over itself
    for place in ("run", "run/words", "run/words/tokenizer.json"):
        again = Words.open(tmp_path / place)
        assert again.fingerprint() == words.fingerprint() and again.read("red") == words.read("red")
    assert [p.name for p in (tmp_path / "run" / "words").iterdir()] == ["tokenizer.json"]


def test_nothing_else_is_written_over(words, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not a text tokenizer: it holds notes.txt"):
        words.save(tmp_path)
    words.save(tmp_path / "w")
    with pytest.raises(ValueError, match=f"w holds another text tokenizer, {words.fingerprint()}"):
        Words.train(["another text"], 270).save(tmp_path / "w")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "w"]
    assert Words.open(tmp_path / "w").fingerprint() == words.fingerprint()
    words.save(tmp_path / "words")
    with pytest.raises(ValueError, match="holds another text tokenizer"):
        Words.train(["another", "text"], 270).save(tmp_path / "words")
    assert Words.open(tmp_path / "words").fingerprint() == words.fingerprint()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a b", "it is no text tokenizer: expected value"),
        (b'{"kind": "tokenizer"}', "it is no text tokenizer: "),
        (b'{"model": {"type": "BPE"}}', "it is no text tokenizer: "),
        (b"[1]", "it is no text tokenizer: "),
        (b"\xff\xfe{", "can't decode byte 0xff"),
        (b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "a text tokenizer of no ids"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, told):
    (tmp_path / "tokenizer.json").write_bytes(text)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as error:
        Words.open(tmp_path)
    assert told in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=rf"{place} holds no text tokenizer: .*{place}"):
            Words.open(place)


# -- as released models have them


def pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces and merges as SentencePiece makes them: `▁` for a blank, bytes for all else."""
    letters = sorted(set("▁abcdefghilmnorstux,"))
    merges = [("▁", "s"), ("e", "a"), ("▁s", "ea"), ("▁", "r"), ("e", "d"), ("▁r", "ed")]
    pieces = [*letters, *(a + b for a, b in merges)]
    return {piece: i for i, piece in enumerate(["<unk>", "<s>", "</s>", *BYTES, *pieces])}, merges


def llama(scheme: str | None) -> Tokenizer:
    """As Llama's: a blank before the first word, by the normalizer (None) or before the cut."""
    made = Tokenizer(models.BPE(*pairs(), **FALLBACK))
    blank = normalizers.Replace(" ", "▁")
    if scheme is None:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blank])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*pieces, decoders.Strip(" ", 1, 0)])
    made.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", *MARKS[:2])])
    return made


def gemma() -> Tokenizer:
    """As Gemma's: no blank is put before anything, and none is left out."""
    vocab, merges = pairs()
    vocab = {{"<s>": "<bos>", "</s>": "<eos>"}.get(k, k): i for k, i in vocab.items()}
    made = Tokenizer(models.BPE(vocab, merges, **FALLBACK))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(pieces)
    made.add_special_tokens([AddedToken(name, normalized=False) for name in ("<bos>", "<eos>")])
    return made


def qwen() -> Tokenizer:
    """As Qwen2's: bytes, composed letters, and marks behind the vocabulary."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "s"), ("e", "a"), ("Ġs", "ea"), ("Ġ", "r"), ("e", "d"), ("Ġr", "ed")]
    vocab = {piece: i for i, piece in enumerate([*letters, *(a + b for a, b in merges)])}
    made = Tokenizer(models.BPE(vocab, merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    made.add_tokens(["<tool_call>"])
    return made


RELEASED = {
    "llama": lambda: llama(None),
    "llama, first": lambda: llama("first"),
    "llama, always": lambda: llama("always"),
    "gemma": gemma,
    "qwen": qwen,
}


@pytest.fixture(scope="module", params=RELEASED)
def both(request, tmp_path_factory):
    """The same file, opened here and by transformers."""
    folder = tmp_path_factory.mktemp("released")
    RELEASED[request.param]().save(str(folder / "tokenizer.json"))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return Words.open(folder), theirs


SOME = ["the red sea", " red", "red  sea \n", "", " ", "e\u0301", "<x>"]
SOME += ["r\u20acd \U0001f600\U0001f600"]


@pytest.mark.parametrize("text", SOME)
def test_reading_and_writing_are_those_of_transformers(both, text):
    words, theirs = both
    ids = words.read(text)
    assert ids == theirs(text, add_special_tokens=False).input_ids
    marked = ids if words.start is None else [words.start, *ids, words.stop]
    for some in (marked, ids[1:], ids[:-1], ids[::-1]):
        assert words.write(some) == theirs.decode(some, skip_special_tokens=True)


@pytest.mark.parametrize("text", [text for text in SOME if text])
def test_texts_behind_something_are_those_of_transformers(both, text):
    """Behind a mark of the row, such as that of a picture, and behind another text."""
    words, theirs = both
    mark = next(name for name in words.specials if name != "<unk>")
    row = theirs(f"sea{mark}{text}", add_special_tokens=False).input_ids
    behind = row[row.index(words.id(mark)) + 1 :]
    assert words.read(text, begins=False) == behind
    before = words.read("sea")
    whole = theirs.decode([*before, *behind], skip_special_tokens=True)
    assert words.write(before) + words.write(behind, begins=False) == whole


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_ids_of_released_ones_are_streamed(both, data):
    """What is shown of fewer ids begins what is shown of more, whatever the ids are."""
    words, shown = both[0], ""
    ids = data.draw(st.lists(st.integers(0, words.vocab - 1), max_size=12))
    for end in range(len(ids) + 1):
        now = words.write(ids[:end], whole=False)
        assert now.startswith(shown)
        shown = now
    assert words.write(ids).startswith(shown)


def test_marks_that_somebody_types_are_text_for_released_ones_too(both):
    words, theirs = both
    for mark in words.specials:
        ids = words.read(f"red {mark}")
        as_text = {"add_special_tokens": False, "split_special_tokens": True}
        assert words.id(mark) not in ids and ids == theirs(f"red {mark}", **as_text).input_ids


def test_the_ids_that_begin_and_end_a_document_are_found():
    ends = {name: Words(make().to_str()) for name, make in RELEASED.items()}
    found = {name: (words.start, words.stop) for name, words in ends.items()}
    last = ends["qwen"].id("<|endoftext|>")
    assert found["llama"] == found["gemma"] == (1, 2) and found["qwen"] == (None, last)
    assert ends["qwen"].pad == last and ends["llama"].pad == 0
    tool = ends["qwen"].id("<tool_call>")
    assert ends["qwen"].written[tool] and ends["qwen"].vocab == tool + 1


def test_a_mark_that_can_only_be_read_as_one_is_refused():
    vocab = [("<unk>", 0.0), ("</s>", -1.0), ("a", -2.0)]
    made = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=False))
    made.add_special_tokens(["</s>"])
    words = Words(made.to_str())
    assert words.read("aa") == [2, 2] and words.model == "Unigram"
    with pytest.raises(ValueError, match="the text has '</s>', which this text tokenizer reads as"):
        words.read("a</s>")


def test_ids_with_holes_are_all_there():
    made = json.loads(qwen().to_str())
    made["model"]["vocab"]["zz"] = 400
    words = Words(json.dumps(made))
    assert words.vocab == 401 and int(words.written.sum()) == 256 + 6 + 1 + 1
    assert words.write([399, 400]) == "zz"
