"""Pictures that a reader judges and pipelines that answer, by the real commands."""

import json

import numpy as np
import pytest
from PIL import Image

from builders import pipeline
from small_systems import TOKENIZER, TRAIN, mistake, write_pictures
from smalti.cli.main import main

pytestmark = pytest.mark.usefixtures("float32")
SMALL = [
    *"--data.source shapes-all:40 --data.holdout 0.25 --row 96 --vocab 280".split(),
    *"--train.steps 4 --writing.words 4 --model.language.layers 1 --model.language.heads 2".split(),
    *"--model.language.dim 16 --model.language.ffn-dim 16".split(),
    *TRAIN,
]


def run(*arguments):
    main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A pipeline of text and pictures, one of classes, pictures, and questions about one."""
    folder = tmp_path_factory.mktemp("reading")
    run("train", "shapes_vqgan", "--out", folder / "t", *TOKENIZER)
    run("train", "shapes_chameleon", "--tokenizer", folder / "t" / "tokenizer", "--out",
        folder / "run", *SMALL)  # fmt: skip
    names = ["Flags", "Objects", "Symbols", "Food & Drink", "Activities"]
    pipeline("llamagen", classes=names).save_pretrained(folder / "classes")
    write_pictures(folder / "pictures", 2)
    rows = [{"image": "pictures/000.png", "question": "Is it red?", "answer": ["yes"] * 9 + ["no"]},
            {"image": "pictures/001.png", "question": "Is it?", "answer": ["no"] * 10}]  # fmt: skip
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "bad.jsonl").write_text('{"question": "Is it?"}\n')
    np.savez(folder / "bare.npz", arr_0=np.zeros((2, 16, 16, 3), np.uint8))
    return folder


def report(capsys, *arguments):
    capsys.readouterr()
    run("eval", *arguments, "--bootstrap", 10)
    return json.loads(capsys.readouterr().out)


def values(told):
    return {m["metric"]: m["value"] for m in told["metrics"]}


def test_what_a_pipeline_draws_is_judged_by_a_reader(work, tmp_path, capsys):
    pipe = work / "run" / "pipeline"
    told = report(capsys, pipe, "--reader", pipe, "--metrics", "gecko", "fwd", "--reference",
                  "shapes:5", "--keep", tmp_path / "drawn.npz")  # fmt: skip
    found = values(told)
    assert list(found)[:2] == ["fwd_5", "gecko_5"] and "gecko_agreement_words_5" in found
    assert len(told["gecko"]) == 5
    first = told["gecko"][0]
    assert [word for word, _ in first["words"]] == first["prompt"].split()
    assert [mark for word, mark in first["words"] if word == "a"] == ["not asked"]
    assert len(first["answers"]) == 4 and first["answers"][0]["expected"] in first["prompt"]
    right = {"right": 0, "wrong": 0, "not asked": 0}
    for one in told["gecko"]:
        for _, mark in one["words"]:
            right[mark] += 1
    assert right["not asked"] and right["wrong"]
    again = report(capsys, tmp_path / "drawn.npz", "--reader", pipe, "--metrics", "gecko")
    assert values(again)["gecko_5"] == found["gecko_5"] and again["gecko"] == told["gecko"]


def test_a_pipeline_of_text_and_pictures_draws_into_a_file(work, tmp_path, capsys):
    run("sample", work / "run" / "pipeline", "--text", "a red heart", "a blue star", "--count", 4,
        "--npz", tmp_path / "s.npz")  # fmt: skip
    about = json.loads((tmp_path / "s.json").read_text())
    assert about["text"] == ["a red heart", "a blue star"]
    assert np.load(tmp_path / "s.npz")["arr_0"].shape == (4, 16, 16, 3)


def test_what_a_pipeline_answers_is_measured(work, capsys):
    pipe, questions = work / "run" / "pipeline", f"qa:{work / 'q.jsonl'}"
    told = report(capsys, pipe, "--reference", questions, "--metrics", "vqa", "exact_match",
                  "yes_no", "cider_d")  # fmt: skip
    names = ["vqa_2", "exact_match_2", "yes_no_f1_2", "yes_no_precision_2", "yes_no_recall_2"]
    assert list(values(told)) == [*names, "yes_no_share_2", "cider_d_2"]
    assert told["subject"]["kind"] == "reader" and told["reference"]["questions"] == 2
    first = told["answers"][0]
    assert first["question"] == "Is it red?" and len(first["answers"]) == 10
    held = report(capsys, pipe, "--metrics", "exact_match")
    assert held["reference"]["name"] == "shapes-all:40@held"
    captions = report(capsys, pipe, "--metrics", "cider", "--reference", "shapes:20@held")
    assert captions["reference"]["questions"] == 5


def test_pictures_of_several_sizes_come_to_the_one_asked_for(work, capsys):
    pictures = work / "sizes"
    pictures.mkdir()
    for side in (16, 20):
        Image.new("RGB", (side, side), "red").save(pictures / f"{side}.png")
        (pictures / f"{side}.txt").write_text("a red circle")
    asked = (pictures, "--reader", work / "run" / "pipeline", "--metrics", "gecko")
    assert "--size brings all to one" in mistake(capsys, "eval", *asked)
    assert len(report(capsys, *asked, "--size", 16)["gecko"]) == 2


def test_questions_about_broken_pictures_are_left_out_where_that_is_asked_for(work, capsys):
    broken = work / "pictures" / "broken.png"
    broken.write_bytes((work / "pictures" / "000.png").read_bytes()[:60])
    rows = (work / "q.jsonl").read_text()
    more = {"image": "pictures/broken.png", "question": "Is it?", "answer": ["no"] * 10}
    (work / "some.jsonl").write_text(json.dumps(more) + "\n" + rows)
    asked = (work / "run" / "pipeline", "--reference", f"qa:{work / 'some.jsonl'}", "--metrics",
             "exact_match")  # fmt: skip
    assert "broken.png" in (said := mistake(capsys, "eval", *asked)) and "--skip-bad" in said
    told = report(capsys, *asked, "--skip-bad")
    assert told["reference"]["questions"] == 2 and told["reference"]["skipped"] == 1
    assert [one["question"] for one in told["answers"]] == ["Is it red?", "Is it?"]
    broken.unlink()


def test_questions_that_are_too_long_are_answered_by_nothing(work, capsys):
    row = json.loads((work / "q.jsonl").read_text().splitlines()[0]) | {"question": "Is it? " * 999}
    (work / "long.jsonl").write_text(json.dumps(row) + "\n" + (work / "q.jsonl").read_text())
    run("eval", work / "run" / "pipeline", "--reference", f"qa:{work / 'long.jsonl'}", "--metrics",
        "exact_match", "--bootstrap", 10)  # fmt: skip
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["reference"]["too_long"] == 1 and told["reference"]["questions"] == 3
    assert told["answers"][0]["said"] == "" and values(told)["exact_match_3"] <= 2 / 3
    assert "1 of 3 questions are longer than the " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shapes:4", "--metrics", "gecko"), "gecko: a reader is needed, give --reader"),
        (("shapes:4", "--reader", "PIPE"), "--reader is for the metric gecko"),
        (("shapes:4", "--metrics", "gecko", "--reader", "CLASSES"), "reads and writes no text"),
        (("BARE", "--metrics", "gecko", "--reader", "PIPE"), "does not say what picture 0"),
        (
            ("CLASSES", "--metrics", "gecko", "--reader", "PIPE", "--reference", "shapes:4"),
            "gecko: its templates know nothing of what is drawn, such as 'Flags'",
        ),
        (("CLASSES", "--metrics", "vqa", "--reference", "QA"), "reads and writes no text"),
        (("PIPE", "--metrics", "vqa", "--reference", "BAD"), "bad.jsonl, line 1: answer must be"),
        (("PIPE", "--metrics", "vqa", "--reference", "shapes:4"), "at least 4 people"),
        (("PIPE", "--metrics", "yes_no", "--reference", "shapes:4"), "answered by yes or no"),
        (("PIPE", "--metrics", "vqa", "fwd"), "fwd: vqa, exact_match, cider, cider_d, yes_no are"),
        (("PIPE", "--metrics", "vqa", "--n", "4"), "--n is for a pipeline that draws"),
        (("PIPE", "--metrics", "vqa", "--guidance", "3"), "guidance: settings of drawing are"),
        (("PIPE", "--metrics", "cider", "--reader", "PIPE"), "--reader is for pipelines and sets"),
        (("PIPE",), "the pipeline learned documents (shapes-all:40): give --reference"),
        (("PIPE", "--metrics", "geko"), "did you mean 'gecko'"),
    ],
)
def test_what_cannot_be_measured(work, capsys, arguments, message):
    places = {"PIPE": work / "run" / "pipeline", "CLASSES": work / "classes",
              "BARE": work / "bare.npz", "QA": f"qa:{work / 'q.jsonl'}",
              "BAD": f"qa:{work / 'bad.jsonl'}"}  # fmt: skip
    assert message in mistake(capsys, "eval", *(places.get(a, a) for a in arguments))
