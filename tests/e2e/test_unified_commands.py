"""Text and pictures in one sequence by commands: trained, asked, talked with; one line for every
mistake."""

import io
import json
import shutil

import pytest
import torch
from PIL import Image

from small_systems import TOKENIZER, TRAIN, said, write_pictures
from smalti.cli.main import main
from smalti.cli.talking import Voice
from smalti.data.documents import open_documents
from smalti.files import LOCK, lock
from smalti.loading import load_tokenizer, load_unified
from smalti.pipeline.unified import UnifiedPipeline
from smalti.runs.documents import encode_documents

pytestmark = pytest.mark.usefixtures("float32")
MODEL = [
    *"--data.source shapes-all:40 --data.holdout 0.25 --row 96 --vocab 280".split(),
    *"--train.steps 4".split(),
    *TRAIN,
]
LAYERS = "--model.layers 2 --model.heads 2 --model.head-dim 8 --model.dim 16"
DECODER = "--model.language.layers 1 --model.language.heads 2 --model.language.dim 16"
SMALL = {
    "shapes_chameleon": f"{DECODER} --model.language.ffn-dim 16",
    "shapes_emu3": f"{DECODER} --model.language.ffn-dim 16",
    "shapes_transfusion": LAYERS,
    "shapes_transfusion_paper": f"{DECODER} --model.language.ffn-dim 16 --model.width 8 "
    "--model.blocks 1",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained tokenizer `t`, a model of one vocabulary `g`, and pictures."""
    folder = tmp_path_factory.mktemp("work")
    main(["train", "shapes_vqgan", "--out", str(folder / "t"), *TOKENIZER])
    train(folder, "g")
    write_pictures(folder / "pictures", 3)
    return folder


def train(work, out, *more, recipe="shapes_chameleon", tokenizer="t"):
    given = ["--tokenizer", str(work / tokenizer / "tokenizer"), "--out", str(work / out)]
    main(["train", recipe, *given, *MODEL, *SMALL[recipe].split(), *more])


def mistake(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    return line


def test_a_run_leaves_a_pipeline_that_draws(work, tmp_path, capsys):
    report = json.loads((work / "g" / "report.json").read_text())
    assert 0 < report["held_out_bits_per_byte"] < 10 and 0 < report["held_out_codes"] < 7
    assert (work / "g" / "previews" / "step-00000004.png").is_file()
    told = json.loads(said(
        capsys, "sample", work / "g" / "pipeline", "--text", "a red heart", "--n", 2, "--guidance",
        2, "--out", tmp_path / "s.png", "--json",
    ))  # fmt: skip
    assert [i["text"] for i in told["images"]] == ["a red heart"] * 2
    assert Image.open(tmp_path / "s.png").size[0] > 16
    main(["sample", str(work / "g" / "pipeline"), "--text", "the sea", "--recaption", "{} is {}",
          "--out", str(tmp_path / "r.png"), "--json"])  # fmt: skip
    printed = capsys.readouterr()
    (drawn,) = json.loads(printed.out)["images"]
    assert f"'the sea' is drawn as {drawn['text']!r}" in printed.err
    again = said(
        capsys, "train", "shapes_chameleon", "--tokenizer", work / "t" / "tokenizer", "--out",
        work / "g", *MODEL, *SMALL["shapes_chameleon"].split(), "--json",
    )  # fmt: skip
    assert json.loads(again) == report  # it is finished
    about = json.loads(said(capsys, "info", work / "g" / "pipeline", "--json"))
    assert about["kind"] == "unified" and about["words"]["vocab"] == 280


def test_text_that_rows_cut_off_is_not_counted_as_written(work):
    train(work, "short", "--row", "8", "--train.steps", "1")
    short, whole = (json.loads((work / n / "report.json").read_text()) for n in ("short", "g"))
    assert short["held_out_bits_per_byte"] > 0.6 * whole["held_out_bits_per_byte"]


def test_a_run_goes_on_to_the_same_weights(work, capsys):
    steps = ["--train.save-every", "2"]
    train(work, "once", *steps, "--train.seed", "7")
    train(work, "twice", *steps, "--train.seed", "7", "--train.steps", "2")
    train(work, "twice", *steps, "--train.seed", "7")
    one, two = (json.loads((work / n / "report.json").read_text()) for n in ("once", "twice"))
    assert one["held_out_codes"] == pytest.approx(two["held_out_codes"], rel=0.05)
    main(["train", "shapes_chameleon", "--init", str(work / "g" / "pipeline"), "--out",
          str(work / "tuned"), *MODEL, *SMALL["shapes_chameleon"].split()])  # fmt: skip
    assert (work / "tuned" / "pipeline" / "pipeline.json").is_file()


def test_a_run_notices_other_documents_and_another_pipeline(work, tmp_path, capsys):
    tokenizer, file = load_tokenizer(work / "t" / "tokenizer", "cpu"), tmp_path / "d.arrow"
    encode_documents(open_documents("shapes-all:40"), tokenizer, file, 0.25)
    begun = shutil.copytree(work / "g" / "pipeline", tmp_path / "pipeline")
    given = ["--documents", str(file), "--init", str(begun)]
    train(work, "noticed", *given)
    (work / "noticed" / "report.json").unlink()  # a run that is not finished
    encode_documents(open_documents("shapes-all:44"), tokenizer, file, 0.25, replace=True)
    with pytest.raises(SystemExit):
        train(work, "noticed", *given)
    assert "noticed began with documents " in capsys.readouterr().err
    train(work, "noticed", *given, "--data.on-changed", "go-on")
    (work / "noticed" / "report.json").unlink()
    pipe = load_unified(begun, "cpu")
    with torch.no_grad():
        next(pipe.model.parameters()).add_(1)
    pipe.info.pop("fingerprint")
    pipe.save_pretrained(begun)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(work, "noticed", *given)
    assert "noticed began from " in capsys.readouterr().err


def test_questions_captions_and_conversations(work, tmp_path, capsys, monkeypatch):
    pipe, picture = work / "g" / "pipeline", work / "pictures" / "000.png"
    answer = said(capsys, "ask", pipe, "what is it?", "--image", picture, "--words", 3)
    told = said(capsys, "ask", pipe, "what is it?", "--image", picture, "--words", 3, "--json")
    assert json.loads(told)["answer"] == answer.strip()
    before = said(capsys, "ask", pipe, "--image", picture, "what is it?", "--words", 3)
    assert before == answer
    both = ("--image", picture, f"--image={picture}")
    told = said(capsys, "ask", pipe, *both, "is <image> <image>?", "--words", 3, "--json")
    assert json.loads(told)["images"] == [str(picture), str(picture)]
    captions = tmp_path / "captions.jsonl"
    mine = json.dumps({"file_name": "001.png", "text": "mine"})
    captions.write_text(mine + '\n{"file_name": "000.png", "te')  # cut off by a crash
    said(capsys, "caption", pipe, work / "pictures", "--out", captions, "--words", 3)
    lines = [json.loads(line) for line in captions.read_text().splitlines()]
    assert [line["file_name"] for line in lines] == ["001.png", "000.png", "002.png"]
    assert lines[0]["text"] == "mine"
    captions.write_text(mine)  # as an editor may leave it
    said(capsys, "caption", pipe, work / "pictures", "--out", captions, "--words", 3)
    assert [json.loads(line) for line in captions.read_text().splitlines()] == lines
    monkeypatch.setattr("sys.stdin", io.StringIO(f"/image {picture}\nwhat is it?\ndraw it\n\n"))
    heard = said(capsys, "chat", pipe, "--words", 3, "--out", tmp_path / "chat",
                 "--text-temperature", 1)  # fmt: skip
    assert len(heard.splitlines()) >= 2
    said(capsys, "edit", pipe, "--image", picture, "--instruct", "make it blue", "--out",
         tmp_path / "e.png")  # fmt: skip
    assert Image.open(tmp_path / "e.png").size == (16, 16)
    again = ("sample", pipe, "--like", tmp_path / "e.png", "--out", tmp_path / "no.png")
    assert "was edited: give smalti edit the same picture" in mistake(capsys, *again)
    mask = Image.new("L", Image.open(picture).size)
    mask.paste(255, (0, 0, 8, 8))
    mask.save(tmp_path / "mask.png")
    told = said(
        capsys, "edit", pipe, "--image", picture, "--mask", tmp_path / "mask.png", "--text",
        "a red heart", "--n", 2, "--out", tmp_path / "painted", "--json",
    )  # fmt: skip
    assert all(image["edit"]["mask"] for image in json.loads(told)["images"])
    assert [p.name for p in sorted((tmp_path / "painted").iterdir())] == [
        "000000.png",
        "000001.png",
    ]


def test_captions_beside_their_pictures_go_on(work, tmp_path, capsys):
    pipe, pictures = work / "g" / "pipeline", write_pictures(tmp_path / "p", 3, ("a", "b"))
    out, more = pictures / "metadata.jsonl", ("--words", 2)
    out.write_text(json.dumps({"file_name": "b/001.png", "text": "mine"}) + "\n")
    (pictures / "a" / "empty.png").touch()
    told = said(capsys, "caption", pipe, pictures, "--out", out, *more, "--json")
    assert json.loads(told)["captions"] == 3
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["file_name"] for line in lines] == ["b/001.png", "a/000.png", "a/002.png"]
    new = tmp_path / "new" / "captions.jsonl"
    assert "words must be at least 1" in mistake(
        capsys, "caption", pipe, "shapes:2", "--out", new, "--words", 0
    )
    assert not new.parent.exists()
    with lock(new.with_name(f".{new.name}{LOCK}"), new):
        assert "is writing there" in mistake(capsys, "caption", pipe, "shapes:2", "--out", new)
    said(capsys, "caption", pipe, "shapes:2", "--out", new, *more)
    assert len(new.read_text().splitlines()) == 2 and len(list(new.parent.iterdir())) == 1


def test_captions_do_not_depend_on_how_many_are_written_at_a_time(work, tmp_path, capsys):
    pipe, pictures = work / "g" / "pipeline", write_pictures(tmp_path / "p", 4)
    (pictures / "001.png").write_bytes(b"broken")
    more, lines = ("--words", 4, "--text-temperature", 1), list[set[str]]()
    for batch in (1, 3):
        out = tmp_path / f"{batch}.jsonl"
        said(capsys, "caption", pipe, pictures, "--out", out, "--batch", batch, *more)
        lines.append(set(out.read_text().splitlines()))
    assert lines[0] == lines[1] and len(lines[0]) == 3


def test_a_conversation_goes_on_behind_mistakes(work, tmp_path, capsys, monkeypatch):
    (tmp_path / "text.png").write_text("no picture")
    mistakes = f"/image {tmp_path / 'text.png'}\nis <image> red?\n"
    heard = list[str]()
    for between in (mistakes, ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"hello\n{between}why?\n"))
        main(["chat", str(work / "g" / "pipeline"), "--words", "4", "--pictures", "0"])
        out, err = capsys.readouterr()
        heard.append(out)
        assert ("cannot decode image" in err) == bool(between)
        assert ("<image>), given are 0; the conversation goes on" in err) == bool(between)
    assert heard[0] == heard[1]


def test_what_is_left_of_captions_and_conversations_that_are_stopped(
    work, tmp_path, capsys, monkeypatch
):
    pipe, out = work / "g" / "pipeline", tmp_path / "c.jsonl"
    caption = UnifiedPipeline.caption

    def stopped(self, images, *, first, **more):
        if first:
            raise KeyboardInterrupt
        return caption(self, images, first=first, **more)

    monkeypatch.setattr(UnifiedPipeline, "caption", stopped)
    words = ["caption", pipe, work / "pictures", "--batch", 1, "--words", 2, "--out", out]
    told = stop(capsys, *words)
    assert told == f"stopped; {out} holds 1 captions, the same command goes on"
    monkeypatch.undo()
    said(capsys, *words)
    assert len(out.read_text().splitlines()) == 3
    monkeypatch.setattr("smalti.cli.talking.told", interrupted)
    monkeypatch.setattr("sys.stdin", io.StringIO("draw it\n"))
    told = stop(capsys, "chat", pipe, "--out", tmp_path / "chat")
    assert told == "stopped; pictures that were drawn are kept"


def interrupted(*_):
    raise KeyboardInterrupt


def stop(capsys, *arguments) -> str:
    """The last line of a command that Ctrl-C ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == 130
    return capsys.readouterr().err.splitlines()[-1]


def test_a_voice_prints_what_is_new(capsys):
    voice = Voice()
    for text in (" a", "a red ", "a red cat"):
        voice.say(text, False)
    for text, whole in ((" a red car", True), ("", True), ("it", False), ("it is", True)):
        voice.say(text, whole)
    assert capsys.readouterr().out == "a red cat\na red car\nit is\n"


@pytest.mark.slow
def test_transfusion_trains_by_command(work, tmp_path, capsys):
    kl = "--model.size 16 16 --model.channels 8 --model.latent 4 --train.steps 4".split()
    main(["train", "shapes_klvae_2x2", "--data.source", "shapes:64", *kl, *TRAIN, "--out",
          str(work / "k")])  # fmt: skip
    for out, recipe, loss in (
        ("f", "shapes_transfusion", "flow"), ("p", "shapes_transfusion_paper", "noise")
    ):  # fmt: skip
        train(work, out, recipe=recipe, tokenizer="k")
        report = json.loads((work / out / "report.json").read_text())
        assert report[f"held_out_{loss}"] > 0
        pipe, picture = work / out / "pipeline", tmp_path / f"{out}.png"
        said(capsys, "sample", pipe, "--text", "a red heart", "--head-steps", 2, "--out", picture)
        assert picture.is_file()
    wrong = ("sample", work / "p" / "pipeline", "--text", "a", "--solver", "euler")
    assert "solved by ancestral, ddim, dpm" in mistake(capsys, *wrong, "--out", tmp_path / "x.png")


def test_emu3_trains_by_command(work, tmp_path, capsys):
    train(work, "e", recipe="shapes_emu3")
    report = json.loads((work / "e" / "report.json").read_text())
    assert 0 < report["held_out_bits_per_byte"] < 20 and 0 < report["held_out_codes"] < 7
    pipe = work / "e" / "pipeline"
    assert json.loads(said(capsys, "info", pipe, "--json"))["model"]["type"] == "emu3"
    said(capsys, "sample", pipe, "--text", "a red heart", "--out", tmp_path / "s.png")
    assert (tmp_path / "s.png").is_file()
    picture = work / "pictures" / "000.png"
    assert said(capsys, "ask", pipe, "what is it?", "--image", picture, "--words", 3).endswith("\n")


def test_a_row_too_short_for_all_that_is_learned(work, tmp_path, capsys):
    """Found before the first step, not behind the last."""
    with pytest.raises(SystemExit) as stop:
        main(["train", "shapes_chameleon", "--init", str(work / "g" / "pipeline"), "--row", "12",
              "--data.source", "captioned:shapes:20", "--out", str(tmp_path / "r")])  # fmt: skip
    assert stop.value.code == 2 and not (tmp_path / "r" / "metrics.jsonl").exists()
    last = capsys.readouterr().err.splitlines()[-1]
    assert "--row 12 has room for nothing that is learned: the shortest document has" in last


def test_mistakes_are_one_line(work, tmp_path, capsys):
    pipe, picture = work / "g" / "pipeline", work / "pictures" / "000.png"
    (tmp_path / "notes.jsonl").write_text('{"my": "notes"}\n')
    for words, *command in (
        ("give it a prompt", "sample", pipe),
        ("text_temperature must be 0 or more, got -1", "ask", pipe, "what?", "--image", picture,
         "--text-temperature", "-1"),
        ("--n and --batch must be at least 1", "edit", pipe, "--image", picture, "--instruct", "a",
         "--n", 0),
        ("must hold {} twice", "sample", pipe, "--text", "a", "--recaption", "{} is"),
        ("--recaption needs prompts", "sample", pipe, "--recaption", "{} is {}."),
        ("takes no map, got", "sample", pipe, "--text", "a", "--map", picture),
        ("--negative and --map do not go", "edit", pipe, "--image", picture, "--instruct", "a",
         "--map", picture),
        ("no such file: gone.png", "ask", pipe, "what?", "--image", "gone.png"),
        ("2 places for pictures", "ask", pipe, "<image> <image>?", "--image", picture),
        ("1 places for pictures", "sample", pipe, "--text", "a <image>"),
        ("2 places for pictures", "edit", pipe, "--image", picture, "--instruct",
         "<image> <image>"),
        ("--image FILE is missing", "ask", pipe, "what?"),
        ("leaves no room for text", "ask", pipe, "what? " * 999, "--image", picture),
        ("is not a file of captions", "caption", pipe, work / "pictures", "--out",
         tmp_path / "notes.jsonl"),
        ("do not go with it", "edit", pipe, "--image", picture, "--instruct", "a", "--text", "b"),
        ("give --reference with the pictures", "eval", pipe),
        ("is not a pipeline", "ask", work / "pictures", "what?", "--image", picture),
        ("never mirrored", "train", "shapes_chameleon", "--out", tmp_path / "r", "--data.flip",),
        ("need --tokenizer", "train", "shapes_chameleon", "--out", tmp_path / "r"),
        ("writes pictures of one grid", "train", "shapes_transfusion", "--tokenizer",
         work / "t" / "tokenizer", "--out", tmp_path / "r", "--data.source", "shapes-all:20"),
        ("unknown documents", "train", "shapes_chameleon", "--tokenizer", work / "t" / "tokenizer",
         "--out", tmp_path / "r", "--data.source", "nothing"),
    ):  # fmt: skip
        assert words in mistake(capsys, *command), command
    assert (tmp_path / "notes.jsonl").read_text() == '{"my": "notes"}\n'
