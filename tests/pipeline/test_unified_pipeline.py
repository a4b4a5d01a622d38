"""A pipeline of text and pictures: what it is asked for, what it keeps, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smalti import modules
from smalti.cli.drawing import as_drawn
from smalti.cli.info import png_metadata
from smalti.cli.main import main
from smalti.codes import Known
from smalti.config import read_json
from smalti.data.transforms import center_part
from smalti.files import write_json
from smalti.loading import load, load_pipeline, load_unified
from smalti.models import eye as eyes
from smalti.modules import fingerprint
from smalti.pipeline.conversation import Phrases, Turn, Writing, placed, said
from smalti.pipeline.unified import Said, Shown, UnifiedPipeline, Wish
from smalti.text.sequence import Part, rows_of
from smalti.text.words import Words
from unified_pipelines import made

DRAWING = sorted(name for name, entry in modules.UNIFIED.items() if entry.tiny().drawing)


@pytest.fixture(scope="module", params=DRAWING)
def pipe(request: pytest.FixtureRequest) -> UnifiedPipeline:
    return made(request.param)


@pytest.fixture(scope="module")
def one() -> UnifiedPipeline:
    return made("one_vocabulary")


@pytest.fixture(scope="module")
def both() -> UnifiedPipeline:
    """One whose model has an eye."""
    return made("janus")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of no system's size."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def same(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def at_random(pipe: UnifiedPipeline) -> bool:
    """Whether its pictures depend on the seed."""
    return pipe.model.filtered or pipe.model.solved


def test_pictures_depend_on_text_seed_and_number_alone(pipe):
    few = {"steps": 4} if pipe.model.draws_by == "masked" else {}
    few = {"head_steps": "3"} if pipe.model.solved else few
    texts = ["a red heart", "a blue star"]
    images = pipe(texts, n=3, seed=5, guidance=2.0, **few)
    assert [i.size for i in images] == [pipe.tokenizer.size[::-1]] * 3
    tags = [i.info["smalti"] for i in images]
    assert [(t["text"], t["index"]) for t in tags] == [
        ("a red heart", 0), ("a blue star", 1), ("a red heart", 2)
    ]  # fmt: skip
    alone = pipe(texts, n=1, seed=5, first=2, guidance=2.0, batch=1, **few)
    assert np.abs(np.asarray(alone[0], int) - np.asarray(images[2], int)).max() <= 2
    assert same(images[0], images[2]) != at_random(pipe)


def test_guidance_leads_away_from_the_document_of_a_negative_text(pipe):
    """At scale 0 nothing else is left; '' is what the model has for nothing. Each image has its
    own, whatever is drawn beside it."""
    few = {"steps": 4} if pipe.model.draws_by == "masked" else {}
    few = {"head_steps": "3"} if pipe.model.solved else few

    def codes(text, scale, first=0, **given):
        drawing = pipe.drawing(pipe.asked(text=text, **given), guidance=scale, seed=3, **few)
        return pipe.drawn(drawing.parts(None, first, None)[0]).float()

    texts, negatives = ["a red heart"] * 2, ["", "a blue star, what is it?"]
    nothing, other = codes(texts, 0.0, negative=negatives)
    plain, (only,) = codes(texts, 0.0), codes(negatives[1], 1.0, first=1)
    large = plain.abs().max().item()
    for mine, theirs in ((nothing, plain[0]), (other, only)):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3 * large)
    assert (other - plain[1]).abs().max() > 1e-2 * large


def test_codes_are_drawn_from_a_mixture_of_the_logits_of_two_documents():
    pipe, scale = made("emu3"), 3.0
    asked = pipe.asked(text="a red heart", negative="a blue star, what is it?")
    (part,) = pipe.drawing(asked, guidance=scale, top_k=1).parts(1, 0, 1)
    (codes,) = pipe.drawn(part)
    assert len(codes.unique()) > 1
    picture, found = Part(codes, pipe.model.spec), list[torch.Tensor]()
    for text in ("a red heart\n", "a blue star, what is it?\n"):
        ids = torch.tensor([pipe.model.marks.start, *pipe.words.read(text, begins=True)])
        rows = rows_of([[Part(ids), picture]], pipe.model.wrapping)
        logits = pipe.model.logits(pipe.model.hidden(rows))[0, :-1]
        first = pipe.model.config.first
        where = (rows.ids[0, 1:] >= first) & (rows.ids[0, 1:] < first + pipe.model.spec.vocab)
        found.append(logits[where][:, first : first + pipe.model.spec.vocab])
    toward, away = found
    assert torch.equal((away + scale * (toward - away)).argmax(-1), codes)
    assert not torch.equal(toward.argmax(-1), codes)


def test_models_that_write_the_size_of_a_picture_draw_others(photo):
    pipe = made("emu3")
    (height, width), side = pipe.model.spec.grids[0], pipe.tokenizer.factor
    size = (side * (height - 1), side * (width + 1))
    texts = ["a red heart", "a blue star"]
    images = pipe(texts, negative=["", "a heart"], size=size, seed=1, guidance=2.0)
    tags = [image.info["smalti"] for image in images]
    assert [i.size for i in images] == [size[::-1]] * 2 and tags[0]["size"] == list(size)
    (again,) = pipe(**as_drawn(tags[1]), first=1, n=1)
    assert same(again, images[1]) and not same(*images)
    (own,) = pipe(texts[0], size=pipe.tokenizer.size, seed=1, guidance=2.0)
    assert own.size == pipe.tokenizer.size[::-1] and "size" not in own.info["smalti"]
    assert pipe.model.spec.grids == ((height, width),)
    mask = Image.new("L", (50, 40))
    mask.paste(255, (20, 0, 30, 20))
    for call, why in (
        (lambda: pipe("a", size=(side + 1, side)), f"multiples of {side} pixels"),
        (lambda: pipe("a", size=(side * 12, side * 12)), "makes a document of .*reads 160"),
        (lambda: pipe.edit(photo, mask, text="a", size=size), "pictures are edited at size"),
    ):
        with pytest.raises(ValueError, match=why):
            call()


def test_an_empty_negative_text_changes_nothing(one):
    plain = one("a red heart", n=2, seed=2, guidance=2.0)
    for negative in ("", ["", ""]):
        again = one(["a red heart"] * 2, seed=2, guidance=2.0, negative=negative)
        assert all(same(*pair) for pair in zip(again, plain, strict=True))
        assert [i.info for i in again] == [i.info for i in plain]


def test_a_pipeline_may_have_a_negative_text_of_its_own(one, tmp_path):
    own = made("one_vocabulary")
    own.phrases = replace(one.phrases, negative="a blue star")
    own.save_pretrained(tmp_path / "p")
    drawn = load(tmp_path / "p", dtype="float32")("a red heart", guidance=3.0)
    assert same(drawn[0], one("a red heart", negative="a blue star", guidance=3.0)[0])
    assert drawn[0].info["smalti"]["negative"] == "a blue star"
    (without,) = own("a red heart", negative="", guidance=3.0)
    assert same(without, one("a red heart", guidance=3.0)[0]) and not same(without, drawn[0])
    (again,) = own(**as_drawn(without.info["smalti"]))
    assert same(again, without) and again.info == without.info


def test_a_negative_text_is_an_option(one, tmp_path, capsys):
    one.save_pretrained(tmp_path / "p")
    command = ["sample", str(tmp_path / "p"), "--text", "a red heart", "--negative", "a blue star"]
    command += ["--device", "cpu", "--dtype", "float32", "--out", str(tmp_path / "drawn")]
    main([*command, "--guidance", "3"])
    (expected,) = one("a red heart", negative="a blue star", guidance=3.0)
    (file,) = (tmp_path / "drawn").glob("*.png")
    assert same(Image.open(file), expected)
    (again,) = one(**as_drawn(png_metadata(file)))
    assert same(again, expected) and again.info == expected.info
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*command, "--guidance", "1"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and "--negative does nothing without guidance other than 1" in line


def test_a_saved_pipeline_draws_and_says_the_same(pipe, photo, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    again = load(tmp_path / "p", dtype="float32")
    assert isinstance(again, UnifiedPipeline) and again.fingerprint == pipe.fingerprint
    assert same(pipe("a red heart", seed=1)[0], again("a red heart", seed=1)[0])
    asked = {"words": 6, "text_temperature": 1.0}
    assert pipe.ask(photo, "what?", **asked) == again.ask(photo, "what?", **asked)
    assert repr(again) == repr(pipe)
    assert UnifiedPipeline.from_pretrained(tmp_path / "p").fingerprint == pipe.fingerprint
    with pytest.raises(ValueError, match="is a pipeline of text and pictures"):
        load_pipeline(tmp_path / "p")


def test_the_lines_of_a_card_describe_a_picture(photo, tmp_path, monkeypatch, capsys):
    pipe = made("flamingo")
    pipe.writing = Writing(words=4)
    pipe.save_pretrained(tmp_path / "p")
    card = (tmp_path / "p" / "README.md").read_text()
    photo.rename(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    names = dict[str, Any]()
    exec(card.split("```python\n")[1].split("```")[0], names)
    (said,) = names["pipe"].caption([tmp_path / "picture.png"])
    assert capsys.readouterr().out == f"{said}\n"


def test_one_that_only_reads_says_the_same_when_it_is_saved_and_draws_nothing(photo, tmp_path):
    pipe = made("flamingo")
    pipe.save_pretrained(tmp_path / "p")
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == [
        "README.md", "eye", "model", "pipeline.json", "words"
    ]  # fmt: skip
    again = load_unified(tmp_path / "p", dtype="float32")
    assert again.fingerprint == pipe.fingerprint and repr(again) == repr(pipe)
    asked = {"words": 6, "text_temperature": 1.0}
    other = Image.new("RGB", (30, 30), "red")
    assert pipe.ask(photo, "what?", **asked) == again.ask(photo, "what?", **asked)
    two = pipe.caption([photo, other], seed=3, **asked)
    assert two[0] == pipe.caption([photo], seed=3, **asked)[0] and two[0] != two[1]
    turns = [Turn("user", [photo, "what is it?"])]
    events = list(pipe.chat(turns, seed=1, **asked))
    assert events[-1].whole and all(isinstance(event, Said) for event in events)
    draws = {
        "sample": lambda: pipe("a red heart"),
        "lead away": lambda: pipe("a red heart", negative="a blue star", guidance=2.0),
        "edit": lambda: pipe.edit(photo, extend=None),
        "instruct": lambda: pipe.instruct(photo, "make it blue"),
        "go on": lambda: list(pipe.go_on([["a heart"]], Wish("picture", pictures=1))),
    }
    for draw in draws.values():
        with pytest.raises(ValueError, match="reads pictures and writes text, it draws none"):
            draw()
    eye = pipe.eye
    with pytest.raises(ValueError, match="draws no pictures: it takes no tokenizer"):
        UnifiedPipeline(made("janus").tokenizer, pipe.model, pipe.words, eye=eye)
    with pytest.raises(ValueError, match="draws pictures, got no tokenizer"):
        UnifiedPipeline(None, made("one_vocabulary").model, pipe.words)


def test_captions_are_those_of_each_picture_alone(pipe, photo):
    other = Image.new("RGB", (30, 30), "red")
    settings = {"words": 5, "text_temperature": 1.0, "seed": 3}
    both = pipe.caption([photo, other], **settings)
    assert both == [*pipe.caption([photo], **settings), both[1]]
    assert pipe.caption([photo, other], batch=1, **settings) == both
    assert all(isinstance(text, str) for text in both)


def test_an_answer_is_as_long_beside_a_longer_question_as_alone(one):
    long = "what is it? " * 8
    questions = [["what?\n"], [f"{long}\n"]]
    both = one.answers(questions, words=150, text_temperature=1.0)
    alone = [one.answers([q], first=i, words=150, text_temperature=1.0)[0]
             for i, q in enumerate(questions)]  # fmt: skip
    room = one.length - len(one.words.read(f"{long}\n")) - 1
    assert both == alone and len(one.words.read(both[0])) > room


def test_how_much_may_be_written_behind_a_document_is_known_before(pipe, both, photo):
    for some in (pipe, both):  # `both` sees through an eye
        picture, word = Image.open(photo), some.words.read("a a", begins=False)
        free = some.room([picture, "a"])
        assert some.room([picture, picture]) < free < some.room(["a"])
        (row,) = some.documents([[picture, "a"]])
        full = [*row, Part(torch.tensor(word * free)[:free])]  # not a position is left
        assert some.model.wrapping.size(full) == some.length
        for used, refused in ((free - 1, False), (free, True)):
            document = [*row, Part(torch.tensor(word * free)[:used])]
            try:
                said = list(some.events([document], Wish(), words=1))
            except ValueError as error:
                assert refused and "leaves no room for text" in str(error)
            else:
                assert said and not refused


def test_other_words_are_what_completes_a_phrase(one):
    texts, settings = ["the sea", "a fox at night"], {"words": 40, "text_temperature": 1.0}
    whole = one.answers([[f"so {t} is"] for t in texts], seed=3, **settings)
    assert one.recaption(texts, "so {} is {}", seed=3, **settings) == whole
    end = next(
        c for c in whole[0] if all(c in text and text.partition(c)[0].strip() for text in whole)
    )
    short = [text.partition(end)[0].strip() for text in whole]
    assert one.recaption(texts, f"so {{}} is {{}}{end}", seed=3, **settings) == short
    alone = one.recaption(texts[1], f"so {{}} is {{}}{end}", seed=3, first=1, **settings)
    assert alone == short[1:] != whole[1:]
    assert one.recaption(texts, "so {} is {}", seed=3, batch=1, **settings) == whole


def test_nothing_is_written_behind_the_end_of_other_words(one, monkeypatch):
    events = [Said(0, " a h", False), Said(1, " b.", False), Said(0, " a. n", False)]
    more = iter([*events, Said(0, " a. no more", True)])
    monkeypatch.setattr(one, "go_on", lambda documents, wish: more)
    assert one.recaption(["x", "y"], "{} is {}.") == ["a", "b"]
    assert next(more).text == " a. no more"  # it was not asked for
    more = iter([Said(0, " a h", False), Said(0, " a high", True)])
    assert one.recaption("x", "{} is {} ") == ["a"], "the blank before it ends nothing"
    with pytest.raises(ValueError, match="<image>"):
        one.recaption("<image> of a cat", "{} is {}.")
    more = iter([Said(0, " a", True), Said(1, ".", False)])
    with pytest.raises(ValueError, match="no other words of 'y'"):
        one.recaption(["x", "y"], "{} is {}.")
    for phrase in ("{} is", "{} {} {}", ""):
        with pytest.raises(ValueError, match="twice"):
            one.recaption("x", phrase)


def test_captions_have_the_numbers_of_their_pictures(one, photo):
    settings = {"words": 5, "text_temperature": 1.0, "seed": 3}
    whole = one.caption([photo] * 4, **settings)
    assert one.caption([photo] * 2, first=2, batch=1, **settings) == whole[2:] != whole[:2]


def test_an_instruction_gives_pictures(pipe, photo):
    images = pipe.instruct(photo, "make it blue", 2, seed=1)
    assert len(images) == 2 and same(*images) != at_random(pipe)
    tag = images[1].info["smalti"]
    assert tag["text"] == "make it blue" and tag["edit"] == {"instruct": "make it blue"}


def test_a_part_is_painted_anew(pipe, photo):
    mask = np.zeros((40, 50), bool)
    mask[:, 30:] = True  # of the middle 40 x 40 the right 15
    few = {"head_steps": "3"} if pipe.model.solved else {}
    images = pipe.edit(photo, mask, text="a red heart", n=2, seed=1, **few)
    tags = [image.info["smalti"] for image in images]
    assert [(t["text"], t["index"], len(t["edit"]["mask"])) for t in tags] == [
        ("a red heart", 0, 16), ("a red heart", 1, 16)
    ]  # fmt: skip
    kept = pipe.edit(photo, mask, seed=1, keep_pixels=True, **few)[0]  # without a text
    left = slice(0, pipe.tokenizer.size[1] // 2 - 2)  # of the kept half
    assert same(images[0], images[1]) != at_random(pipe)
    given = center_part(Image.open(photo).convert("RGB"), pipe.tokenizer.size)
    assert np.array_equal(np.asarray(kept)[:, left], given[:, left])
    with pytest.raises(ValueError, match="needs a text to lead to"):
        pipe.edit(photo, mask, guidance=2.0)
    away = pipe.edit(photo, mask, negative="blue", guidance=0.0, seed=1, **few)
    only = pipe.edit(photo, mask, text="blue", guidance=1.0, seed=1, **few)
    assert np.abs(np.asarray(away[0], int) - np.asarray(only[0], int)).max() <= 2
    assert away[0].info["smalti"]["negative"] == "blue"


def test_momentum_sums_up_the_steps_of_a_flow():
    pipe = made("transfusion")
    drawn = [
        pipe("a heart", seed=1, guidance=3.0, momentum=momentum, head_steps="4")[0]
        for momentum in (0.0, -0.5)
    ]
    assert not same(*drawn)


def test_an_edit_without_a_text_is_drawn_of_nothing(pipe, photo, monkeypatch):
    """As documents are learned whose condition is left out, and not of an empty caption."""
    seen, picture = [], type(pipe.model).picture

    def looked(model: Any, rows: Any) -> Any:
        seen.append(rows)
        return picture(model, rows)

    monkeypatch.setattr(type(pipe.model), "picture", looked)
    mask = np.zeros((40, 50), bool)
    mask[:, 30:] = True
    pipe.edit(photo, mask, seed=1, **({"head_steps": "3"} if pipe.model.solved else {}))
    (rows,) = seen
    (start,) = pipe.documents([[]])
    blank = Part(pipe.model.spec.empty(1)[0], pipe.model.spec)
    nothing = rows_of([pipe.model.nothing([*start, blank])], pipe.model.wrapping, left=True)
    assert torch.equal(rows.ids, nothing.ids)
    said = rows_of([[*pipe.documents([["\n"]])[0], blank]], pipe.model.wrapping, left=True)
    assert rows.ids.shape != said.ids.shape or not torch.equal(rows.ids, said.ids)


def test_codes_that_an_edit_keeps_are_those_of_the_picture(pipe, photo, monkeypatch):
    drawn, seen = pipe.drawn, []
    monkeypatch.setattr(
        pipe, "drawn", lambda *wish: seen.append((wish[1], drawn(*wish))) or seen[0][1]
    )
    mask = Image.new("L", (40, 40))
    mask.paste(255, (0, 0, 10, 10))
    pipe.edit(Image.open(photo).crop((5, 0, 45, 40)), mask, text="a blue star", seed=3)
    ((known, codes),) = seen
    assert known.mask.any() and not known.mask.all()
    assert torch.equal(codes[known.mask], known.codes[known.mask].to(codes))
    assert not torch.equal(codes[~known.mask], known.codes[~known.mask].to(codes))


def test_a_reply_streams(pipe):
    turns = [Turn("user", ["draw a red heart"])]
    events = list(pipe.chat(turns, words=8, text_temperature=1.5, seed=2))
    texts = [e for e in events if isinstance(e, Said)]
    assert texts and all(b.text.startswith(a.text) or b.whole or a.whole
                         for a, b in zip(texts, texts[1:], strict=False))  # fmt: skip
    begun = pipe.go_on([["draw"]], Wish("picture", pictures=1, text=False, every=1))
    shown = [e for e in begun if isinstance(e, Shown)]
    assert [e.whole for e in shown] == [False] * (len(shown) - 1) + [True]
    assert len(shown) > 1


def test_who_reads_a_reply_may_train_between_its_events(one):
    """A stream is in inference mode while it computes, and at no other time."""
    (part,) = one.drawing(one.asked(text="a red heart")).parts(1, 0, 1)
    for events in (one.chat([Turn("user", ["draw"])], words=4), one.passes([["draw"]], part)):
        next(events)
        assert torch.ones(1, requires_grad=True).mul(2).requires_grad
        assert not torch.is_inference_mode_enabled()


def test_known_codes_have_a_row_for_each_document(one):
    spec = one.model.spec
    known = Known(spec.empty(1), torch.ones(1, spec.positions, dtype=torch.bool))
    with pytest.raises(ValueError, match="must have 2 rows, a document each, got 1 and 1"):
        one("a heart", n=2, known=known)


def test_known_codes_come_back(pipe, photo):
    spec = pipe.model.spec
    codes = pipe.encode(photo)
    mask = torch.ones(1, spec.positions, dtype=torch.bool)
    (image,) = pipe("a red heart", known=Known(codes, mask))
    (whole,) = pipe.model.spec.shape(1)[:1]
    assert whole == 1
    from smalti.pipeline.coded import decoded

    back = decoded(pipe.tokenizer, codes)[0].permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(image, int) - back.astype(int)).max() <= 1


def test_pictures_stand_where_the_text_says(one, photo):
    assert placed([photo, "a <image> b <image>", photo]) == ["a ", photo, " b ", photo]
    assert placed([photo, "what?"]) == [photo, "what?"]
    for pieces in (["<image>"], [photo, "<image> <image>"], [photo, photo, "<image>"]):
        with pytest.raises(ValueError, match="places for pictures"):
            placed(pieces)
    with pytest.raises(ValueError, match="the text has 2 places for pictures"):
        one.ask(photo, "<image> or <image>?")
    with pytest.raises(ValueError, match="the text has 2 places for pictures"):
        one.instruct(photo, "make <image> like <image>")
    with pytest.raises(ValueError, match="the text has 1 places for pictures"):
        one("a <image> heart")
    with pytest.raises(ValueError, match="the text has 1 places for pictures"):
        next(one.chat([Turn("user", ["what is in <image>?"])]))


@pytest.mark.parametrize("name", ["one_vocabulary", "janus"])
def test_a_picture_that_is_read_may_have_a_margin(name, photo):
    pipe = made(name)
    size = (pipe.eye or pipe.tokenizer).size
    image = Image.open(photo).convert("RGB").resize((3 * size[1], size[0]))
    whole = np.full((*size, 3), (9, 8, 7), np.uint8)
    shrunk = image.resize((size[1], round(size[0] / 3)), Image.Resampling.BICUBIC)
    top = (size[0] - shrunk.height) // 2
    whole[top : top + shrunk.height] = np.asarray(shrunk)
    middle, all_of_it = (
        pipe.documents([[some]])[0][-1].content for some in (image, Image.fromarray(whole))
    )
    pipe.phrases = replace(pipe.phrases, margin=(9, 8, 7))
    found = pipe.documents([[image]])[0][-1].content
    assert torch.equal(found, all_of_it) and not torch.equal(found, middle)
    with pytest.raises(ValueError, match="margin must be three of 0 to 255"):
        Phrases(margin=(1, 2))


def test_marks_that_a_user_types_are_text(one):
    stop = one.words.write([one.model.marks.stops[0]])
    assert stop == "" and one.model.marks.stops[0] not in one.words.read("</s> and </s>")


def test_what_cannot_be_is_refused(one, photo):
    for call, words in (
        (lambda: one(), "give it a prompt"),
        (lambda: one("a", classes=[1]), "takes no classes"),
        (lambda: one(["a"] * 3, negative=["b", "c"]), "one for each of the 3 prompts, got 2"),
        (lambda: one("a", negative=3), "a negative prompt must be a text, got 3"),
        (lambda: one("a", negative="b " * 160, guidance=2.0), "makes a document of"),
        (lambda: one.instruct(photo, "a", negative="b"), "negative"),
        (lambda: one("a", size=32), "size must be 16x16, the only one that one_vocabulary draws"),
        (lambda: one("a", guidence=2.0), "guidance"),
        (lambda: one("a", n=0), "n must be"),
        (lambda: one("a", steps=3), "steps 3 is for masked models"),
        (lambda: one("a", solver="euler"), "solver euler is for continuous codes"),
        (lambda: one("a", order="random"), "order random is for models that know orders"),
        (lambda: one("a", guidance_pictures=-1.0), "guidance_pictures must be 0 or more"),
        (lambda: one.ask(photo, "a", words=0), "words must be"),
        (lambda: one.ask(photo, "a", penalty=0.0), "penalty must be"),
        (lambda: one.ask(photo, "a", text_top_p=2.0), "top_p must be"),
        (lambda: one.ask(photo, "what? " * 60), "leaves no room for text"),
        (lambda: list(one.chat([])), "ends with what the user says"),
        (lambda: list(one.chat([Turn("user", ["a"]), Turn("model", ["b"])])), "ends with"),
        (lambda: one.ask("gone.png", "a"), "gone.png"),
        (lambda: Phrases(ask="what?"), "ask must hold {}"),
        (lambda: Writing(text_top_k=-1), "top_k must be"),
    ):
        with pytest.raises((ValueError, OSError), match=words):
            call()


def test_what_is_said_is_put_as_the_model_learned_it():
    turns = [Turn("user", ["hello"]), Turn("model", ["yes"]), Turn("user", ["draw"])]
    assert said(turns, Phrases()) == ["hello\n", "yes\n", "draw\n"]
    assert said(turns, Phrases(say="Q: {} A:")) == ["Q: hello A:", "yes\n", "Q: draw A:"]


def test_pictures_that_are_given_are_seen_and_those_that_are_drawn_are_codes(both, photo):
    image = center_part(Image.open(photo), both.eye.size)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 127.5 - 1
    (document,) = both.documents([["what is it?", photo, "draw"]])
    assert [part.seen for part in document if part.spec is not None] == [True]
    torch.testing.assert_close(document[2].content, both.eye.encode(pixels)[0])
    plain = [np.asarray(i) for i in both.instruct(photo, "draw", guidance=2.0)]
    assert plain[0].shape == (*both.tokenizer.size, 3)
    before = both.ask(photo, "what is it?", words=6)
    with torch.no_grad():
        both.eye.tower.patches.weight.mul_(-1)
    after = both.ask(photo, "what is it?", words=6)
    changed = np.asarray(both.instruct(photo, "draw", guidance=2.0)[0])
    with torch.no_grad():
        both.eye.tower.patches.weight.mul_(-1)
    assert before != after and not np.array_equal(plain[0], changed)
    assert "4 numbers" not in repr(both) and "2 x 2 vectors of 12 numbers" in repr(both)


def test_an_eye_is_kept_and_one_that_does_not_fit_is_refused(both, one, tmp_path):
    both.save_pretrained(tmp_path / "p")
    again = load_unified(tmp_path / "p")
    assert again.fingerprint == both.fingerprint and len(both.fingerprint.split("-")) == 4
    assert again.eye is not None and fingerprint(again.eye) == fingerprint(both.eye)
    parts = (both.tokenizer, both.model, both.words)
    for change, why in (
        ({"patch": 2}, "reads 2 x 2 vectors of 12 numbers, of any length; the eye gives 4 x 4"),
        ({"unit": True}, "of any length; the eye gives 2 x 2 vectors of 12 numbers, of length 1"),
    ):
        eye = modules.module_of(replace(eyes.tiny(), **change), modules.EYES)
        with pytest.raises(ValueError, match=why):
            UnifiedPipeline(*parts, eye=eye)
    with pytest.raises(ValueError, match="reads pictures by an eye, 2 x 2 .*; got none"):
        UnifiedPipeline(*parts)
    with pytest.raises(ValueError, match="it takes no eye"):
        UnifiedPipeline(one.tokenizer, one.model, one.words, eye=both.eye)
    one.save_pretrained(tmp_path / "one")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        "README.md", "model", "pipeline.json", "tokenizer", "words"
    ]  # fmt: skip
    assert "eye" not in read_json(tmp_path / "one" / "model" / "config.json")


@pytest.mark.parametrize("part", ["tokenizer", "words", "eye"])
def test_parts_of_another_pipeline_are_refused(both, part, tmp_path):
    both.save_pretrained(tmp_path / "p")
    config = tmp_path / "p" / "model" / "config.json"
    write_json(config, read_json(config) | {part: "0123456789abcdef"})
    with pytest.raises(ValueError, match=f"trained with {part} 0123456789abcdef"):
        load_unified(tmp_path / "p")


def test_parts_that_do_not_fit_are_refused(one):
    with pytest.raises(ValueError, match="speak of other codes"):
        UnifiedPipeline(made("transfusion").tokenizer, one.model, one.words)
    more = Words.train([f"word{i} another{i * 7}" for i in range(4000)], 4000)
    with pytest.raises(ValueError, match="ids, the model knows"):
        UnifiedPipeline(one.tokenizer, one.model, more)


def test_weights_that_are_no_numbers_are_named(one, tmp_path):
    broken = made("one_vocabulary")
    with torch.no_grad():
        next(iter(broken.model.parameters()))[0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        broken.save_pretrained(tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("exact", [True, False], ids=["cache-float32", "cache-bfloat16"])
@pytest.mark.parametrize("name", [*DRAWING, "transfusion-clean"])
def test_bfloat16_draws_and_writes_too(name, exact, photo, monkeypatch):
    """Also where a cache stays in float32, as on some processors."""
    kept = torch.float32 if exact else torch.bfloat16
    monkeypatch.setattr("smalti.nn.attention.cache_dtype", lambda dtype, device: kept)
    kind, clean = name.removesuffix("-clean"), name.endswith("-clean")
    low = made(kind, **{"clean": True} if clean else {}).to("bfloat16")
    assert low.dtype == torch.bfloat16
    (image,) = low("a red heart")
    assert (image.height, image.width) == low.tokenizer.size
    assert isinstance(low.ask(photo, "what is it?", words=3), str)
