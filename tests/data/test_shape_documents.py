"""Documents of drawn shapes, and whether their oracles know right from wrong."""

import itertools
import re

import numpy as np
import pytest
from PIL import Image

from smalti.data.documents import CAPTION, open_documents
from smalti.data.drawn_shapes import COLOURS, SHAPES, Attributes, draw, recognise
from smalti.data.open import open_source
from smalti.data.shape_documents import (
    FACTS_TOLD,
    KEPT,
    PICTURES,
    QUESTIONS,
    SCRIPTS,
    TASKS,
    Script,
    ShapeDocuments,
    check,
    distance,
    questions,
)
from smalti.data.shape_facts import KNOWN, WITHHELD
from smalti.data.shape_scenes import CORNERS, VALUES, Scene, Scenes

RED = Attributes("red", "circle", "small", "at the top left")


def scripts(task, count=12, seed=3):
    documents = ShapeDocuments(count, seed, (task,))
    return [documents.script(i) for i in range(count)]


def drawn(answer, pixels=64):
    return answer if isinstance(answer, str) else np.asarray(answer.draw(pixels))


def contents(script):
    return [content for content, _ in script.parts]


@pytest.mark.parametrize("task", SCRIPTS)
def test_an_oracle_says_yes_to_the_answer_and_no_to_others(task):
    some = scripts(task)
    assert {s.task for s in some} == {task}
    for script in some:
        assert check(script, drawn(script.answer))
        others = [other.answer for other in some if wrong(other.answer, script.answer)]
        assert others and not any(check(script, drawn(other)) for other in others[:2])
        assert not check(script, "")
        assert not check(script, np.full((64, 64, 3), 255, np.uint8))


def wrong(other, answer):
    """Whether one answer is no other's: by its text, or by what is drawn."""
    if isinstance(other, str) or isinstance(answer, str):
        return other != answer
    return other.shapes != answer.shapes


@pytest.mark.parametrize("pixels", [32, 64])
def test_pictures_are_judged_at_the_size_of_the_model(pixels):
    for script in scripts("edit", 15):
        assert check(script, drawn(script.answer, pixels))


@pytest.mark.parametrize("value", [0, 1, 2, 3])
def test_each_attribute_counts(value):
    script = Script("draw", ((RED.caption, False), (Scene((RED,), (0,)), True)))
    other = ("blue", "star", "large", "in the centre")[value]
    changed = RED._replace(**{RED._fields[value]: other})
    assert check(script, np.asarray(draw(RED)))
    assert not check(script, np.asarray(draw(changed)))


def test_a_text_is_judged_by_its_words():
    script = Script("ask", ((Scene((RED,), (0,)), False), ("x", False), ("at the top left", True)))
    assert check(script, " at the  top left\n") and check(script, "at the top left")
    assert not check(script, "at the top") and not check(script, "at the top left.")
    assert not check(script, "At the top left")


def test_an_edit_keeps_the_rest_of_the_picture():
    """What is asked for is there, but the background is another one: no."""
    for script in scripts("edit", 5):
        made = drawn(script.answer)
        assert distance(script, made) == 0
        tinted = (made * 0.96).astype(np.uint8)
        assert recognise(tinted) == script.answer.shapes[0]
        assert KEPT < distance(script, tinted) < 12 and not check(script, tinted)
        noisy = made + np.random.default_rng(0).normal(0, 3, made.shape)
        assert check(script, np.clip(noisy, 0, 255).astype(np.uint8))
        assert not check(script, drawn(contents(script)[0]))  # nothing was done
    with pytest.raises(ValueError, match="only an edit keeps .* got a task 'draw'"):
        distance(scripts("draw", 1)[0], made)


def test_an_edit_changes_what_it_says_and_keeps_the_jitter():
    seen = set()
    for script in scripts("edit", 40):
        before, order, after = contents(script)
        (old,), (new,) = before.shapes, after.shapes
        (name,) = [n for n in old._fields if getattr(old, n) != getattr(new, n)]
        value = getattr(new, name)
        assert before.seed == after.seed
        words = {"position": value.removeprefix("at ").removeprefix("in "), "shape": f"a {value}"}
        assert order.endswith(words.get(name, value) + "\n")
        assert order.startswith(("move ", "make ")) and (
            f"the {old.shape}" in order or " it " in order
        )
        seen.add(name)
        if name == "colour":  # what it covers is the same to the pixel
            covers = [np.asarray(s.draw()).min(-1) < 250 for s in (before, after)]
            assert (covers[0] == covers[1]).mean() > 0.995
    assert seen == set(RED._fields)


def test_several_shapes_are_small_and_apart():
    several = [s for s in scripts("ask", 200) if len(contents(s)[0].shapes) > 1]
    assert 100 < len(several) < 170
    for script in several[:12]:
        scene = contents(script)[0]
        places = [shape.position for shape in scene.shapes]
        assert len(set(places)) == len(places) and set(places) <= set(CORNERS)
        assert {shape.size for shape in scene.shapes} == {"small"}
        for k, shape in enumerate(scene.shapes):  # each is there, whole
            alone = np.full((64, 64, 3), 255, np.uint8)
            x, y = (32 * ("right" in shape.position), 32 * ("bottom" in shape.position))
            alone[y : y + 32, x : x + 32] = np.asarray(scene.draw())[y : y + 32, x : x + 32]
            assert recognise(alone) == shape, (k, scene)


def test_every_question_has_one_answer():
    kinds = set()
    pair = (RED, RED._replace(colour="blue", position="at the top right"))
    assert "colour" not in questions(pair) and "where" not in questions(pair)
    assert questions(pair)["how many"] == [("How many shapes are there?", "two")]
    assert ("Which shape is red?", "circle") in questions(pair)["shape"]
    for script in scripts("ask", 300):
        scene, question, answer = contents(script)
        asked = dict(itertools.chain(*questions(scene.shapes).values()))
        assert question[-1] == "\n" and asked[question[:-1]] == answer
        kinds.add(question.split()[0] + question.split()[1])
        about = [s for s in scene.shapes if s.shape in question.split()]
        assert len(about) <= 1 or question.startswith("How many")
    assert kinds == {"Howmany", "Whatcolour", "Whichshape", "Whereis", "Howlarge"}


def test_several_questions_about_one_picture_differ_and_have_one_answer():
    counts = set()
    for script in scripts("questions", 120):
        scene, *said = contents(script)
        right = dict(itertools.chain(*questions(scene.shapes).values()))
        pairs = list(zip(said[::2], said[1::2], strict=True))
        assert all(right[question.strip()] == answer for question, answer in pairs)
        assert len(dict(pairs)) == len(pairs) and not pairs[0][0].startswith("\n")
        assert all(q.startswith("\n") for q, _ in pairs[1:]) and all(
            q[-1] == "\n" for q, _ in pairs
        )
        assert [learned for _, learned in script.parts] == [False] + [False, True] * len(pairs)
        counts.add(len(pairs))
    assert (min(counts), max(counts)) == (1, QUESTIONS)


def test_what_there_is_is_told_as_one_reads():
    crowds = []
    for script in scripts("describe", 60):
        scene, question, told = contents(script)
        assert question == "What is there?\n" and script.parts[-1][1]
        assert sorted(told.split(", ")) == sorted(shape.caption for shape in scene.shapes)
        rows = ["bottom" in part for part in told.split(", ")]
        assert rows == sorted(rows)
        lefts = [["right" in p for p in told.split(", ") if ("bottom" in p) is b] for b in rows]
        assert all(line == sorted(line) for line in lefts)
        crowds.append(len(scene.shapes))
    assert crowds.count(3) > crowds.count(2) > crowds.count(1) > 0


def test_a_story_goes_on_from_what_was_there():
    for script in scripts("story", 30):
        parts = contents(script)
        assert len(parts) in (4, 6) and parts[0] == parts[1].shapes[0].caption + "\n"
        assert [learned for _, learned in script.parts] == [False] + [True] * (len(parts) - 1)
        for before, text, after in zip(parts[1::2], parts[2::2], parts[3::2], strict=False):
            (old,), (new,) = before.shapes, after.shapes
            (name,) = [n for n in old._fields if getattr(old, n) != getattr(new, n)]
            assert text.startswith("now it is ") and text.endswith(getattr(new, name))
            assert before.seed == after.seed


def test_a_conversation_is_about_what_was_drawn_last():
    seen = set()
    for script in scripts("talk", 60):
        scene, pictures, order = None, 0, ""
        for (content, learned), (_, replied) in itertools.pairwise([*script.parts, ("", False)]):
            if isinstance(content, Scene):
                assert learned or pictures == 0
                if order.startswith(("make ", "move ")):
                    old, new = scene.shapes[0], content.shapes[0]
                    assert sum(a != b for a, b in zip(old, new, strict=True)) == 1
                    assert content.seed == scene.seed
                else:
                    assert order in ("", content.shapes[0].caption)
                scene, pictures = content, pictures + 1
            elif learned:  # of the shape that is there, and not of one before
                (shape,) = scene.shapes
                assert content in ("one", shape.caption, *shape)
                seen.add(content)
            else:
                assert content.endswith("\n") and replied
                order = content.strip()
        assert 1 <= pictures <= PICTURES and script.parts[-1][1]
    assert len(seen) > 10


def test_withheld_facts_are_told_in_texts_and_nowhere_else():
    things = [fact.thing for fact in WITHHELD]
    assert not set(things) & {fact.thing for fact in KNOWN}
    for fact in WITHHELD:  # every colour or shape of them can be learned from others
        assert fact.value in {known.value for known in KNOWN}
    everything = ShapeDocuments(8000)
    told, riddles = set(), set()
    for i in range(len(everything)):
        if everything.task(i) not in ("fact", "riddle"):
            continue
        script = everything.script(i)
        text = contents(script)[0]
        found = {f.thing for f in KNOWN + WITHHELD if f" {f.thing} " in f" {text} "}
        (told if script.task == "fact" else riddles).update(found)
    assert told == {fact.thing for fact in KNOWN + WITHHELD}
    assert riddles == {fact.thing for fact in KNOWN}
    for script in scripts("withheld riddle"):
        text, scene = contents(script)
        (fact,) = [f for f in WITHHELD if f" {f.thing} " in text]
        assert fact.value in scene.shapes[0] and fact.value not in text
        assert scene.shapes[0].position in text and scene.shapes[0].size in text


def test_facts_are_sentences():
    sentences = {a + b for f in KNOWN + WITHHELD for a, b in f.statements()}
    assert {"the sea is blue.", "blood is red.", "a coin is a circle."} <= sentences
    assert (
        "the colour of the sea is blue." in sentences
        and "the shape of a coin is a circle." in sentences
    )
    assert {f.value for f in KNOWN + WITHHELD} == {*COLOURS, *SHAPES}
    every = [Attributes(*values) for values in itertools.product(*VALUES.values())]
    in_words = set[str]()
    for script in scripts("fact", 30):
        told = [told.strip() for told in re.findall(r"[^.]+\.", "".join(contents(script)))]
        assert len(set(told)) == FACTS_TOLD
        assert all(learned for _, learned in script.parts)
        for one in set(told) - sentences:  # riddles in plain words
            riddle, plain = one.removesuffix(".").split(" is ")
            (fact,) = [f for f in KNOWN + WITHHELD if f"the {f.quality} of {f.thing} " in riddle]
            shape = next(s for s in every if s.caption == plain)
            assert fact.value in shape and fact.value not in riddle.replace(fact.thing, "")
            assert shape.position in riddle and shape.size in riddle
            others = {"colour": shape.shape, "shape": shape.colour}
            assert others[fact.quality] in riddle
            in_words.add(fact.thing)
    assert len(in_words) > 20 and in_words & {f.thing for f in WITHHELD}


def test_a_document_depends_on_seed_and_number_alone():
    few, many = ShapeDocuments(20), ShapeDocuments(500)
    for i in range(20):
        assert few.script(i) == many.script(i)
        for a, b in zip(few[i], many[i], strict=True):
            assert (a.text, a.learned) == (b.text, b.learned)
            assert a.image is None or np.array_equal(a.image, b.image)
    assert few.script(3) != ShapeDocuments(20, seed=1).script(3)
    prints = [few, many, ShapeDocuments(20, 1), ShapeDocuments(20, pixels=32)]
    assert len({d.fingerprint() for d in prints}) == 4
    assert few.fingerprint() == ShapeDocuments(20).fingerprint()


def test_pieces_are_the_script_drawn():
    documents = open_documents("shapes-all:20")
    assert len(documents) == 20 and documents.name == "shapes-all:20"
    assert len(open_documents("shapes-all")) == 10_000
    for i in range(20):
        script, document = documents.script(i), documents[i]
        assert documents.task(i) == script.task == TASKS[i % len(TASKS)]
        for (content, learned), piece in zip(script.parts, document, strict=True):
            assert piece.learned == learned
            if isinstance(content, str):
                assert piece.text == content
            else:
                assert isinstance(piece.image, Image.Image) and piece.image.size == (64, 64)
                assert np.array_equal(piece.image, content.draw())
    assert [p.text for p in documents[1]][1] == CAPTION == "Caption:\n"
    with pytest.raises(IndexError, match="has 20 documents, got 20"):
        documents[20]


@pytest.mark.parametrize("count, tasks", [(0, ("draw",)), (3, ("paint",)), (3, ())])
def test_what_is_no_number_and_no_task(count, tasks):
    with pytest.raises(ValueError, match="tasks among draw, caption, .*, got"):
        ShapeDocuments(count, tasks=tasks)
    for text in ("shapes-all:0", "shapes-all:x", "shapes-all:9:paint", "shapes-all::draw"):
        with pytest.raises(ValueError, match="shapes-all:COUNT"):
            open_documents(text)


def test_some_tasks_alone_take_turns():
    documents = open_documents("shapes-all:5:caption,ask")
    assert [documents.task(i) for i in range(5)] == ["caption", "ask", "caption", "ask", "caption"]
    assert documents.name == "shapes-all:5:caption,ask"
    assert documents.fingerprint() != open_documents("shapes-all:5").fingerprint()


def test_scenes_are_pictures_of_one_to_three_shapes():
    scenes = open_source("scenes:9")
    assert (scenes.name, len(scenes), scenes.classes) == ("scenes:9", 9, [])
    assert [len(scenes.scene(i).shapes) for i in range(9)] == [1, 2, 3] * 3
    image, label, caption = scenes[4]
    assert np.array_equal(image, Scenes(20).scene(4).draw()) and (label, caption) == (-1, "")
    assert recognise(np.asarray(scenes[3].image)) == scenes.scene(3).shapes[0]
    prints = {s.fingerprint() for s in (scenes, Scenes(9, 1), Scenes(10))}
    assert len(prints) == 3 and len(open_source("scenes")) == 10_000
    with pytest.raises(ValueError, match="allowed: scenes, scenes:COUNT"):
        open_source("scenes:few")
    with pytest.raises(IndexError, match="has 9 pictures, got 9"):
        scenes[9]
