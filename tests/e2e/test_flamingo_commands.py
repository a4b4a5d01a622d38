"""Flamingo and LLM2CLIP by the real commands: from a language model that writes to what reads."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from smalti.cli.main import main
from smalti.data.drawn_shapes import Shapes
from smalti.loading import load_towers, load_unified
from smalti.runs import language
from smalti.runs.speaker import load_language
from smalti.train.trainer import Trainer

pytestmark = pytest.mark.usefixtures("float32")

STEPS = ("--train.batch", "4", "--train.steps", "2")
LANGUAGE = (
    *("--model.layers", "2", "--model.dim", "32", "--model.heads", "2", "--model.ffn-dim", "48"),
    *("--data.source", "shapes-all:40", "--row", "64"),
)
VISION = tuple(
    f"--model.vision.{name}={value}"
    for name, value in (("dim", 16), ("heads", 2), ("layers", 1), ("ffn-dim", 32))
)
SEES = ("--model.size", "16", "--model.features", "16", "--data.source", "shapes:40")


def run(*arguments: Any) -> None:
    main([str(a) for a in arguments])


def mistake(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    output = capsys.readouterr()
    (line,) = output.err.splitlines()[-1:]
    assert stop.value.code == 2 and not output.out
    return line


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model, the same of sentences, and towers."""
    folder = tmp_path_factory.mktemp("flamingo")
    run("train", "shapes_language", "--out", folder / "writes", *LANGUAGE, *STEPS)
    text = [word.replace("vision", "text") for word in VISION]
    run("train", "shapes_siglip", "--out", folder / "sees", *SEES, *VISION, *text, *STEPS)
    Shapes(1)[0].image.save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def flamingo(work: Path) -> Path:
    look = ("--model.resampler.layers", "1", "--model.resampler.latents", "3")
    run("train", "shapes_flamingo", "--language", work / "writes" / "language", "--eye",
        work / "sees" / "towers", "--out", work / "run", "--data.source",
        "shapes-all:40:caption,draw,ask", "--row", "64", *look, *STEPS)  # fmt: skip
    return work / "run" / "pipeline"


def test_text_that_rows_cut_off_is_not_counted_as_written(work: Path):
    run("train", "shapes_language", "--out", work / "short", *LANGUAGE, *STEPS, "--row", "8")
    reports = [json.loads((work / n / "report.json").read_text()) for n in ("short", "writes")]
    short, whole = (report["held_out_bits_per_byte"] for report in reports)
    assert short > 0.6 * whole


def test_a_model_that_only_reads_is_trained_and_asked(
    work: Path, flamingo: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    names = ["README.md", "eye", "model", "pipeline.json", "words"]
    assert sorted(p.name for p in flamingo.iterdir()) == names
    pipe = load_unified(flamingo, "cpu")
    language = load_language(work / "writes" / "language").module.state_dict()
    mine = pipe.model.state_dict()
    assert all(torch.equal(mine[f"language.{name}"], t) for name, t in language.items())
    assert any(mine[f"layers.0.{gate}"].any() for gate in ("attention_gate", "ffn_gate"))
    assert "pictures that are given as 4 x 4 vectors" in repr(pipe)
    report = json.loads((work / "run" / "report.json").read_text())
    assert report["steps"] == 2 and report["held_out_bits_per_byte"] > 0
    told = (work / "run" / "init.json").read_text()
    assert '"language"' in told and '"eye"' in told
    picture = work / "picture.png"
    capsys.readouterr()
    run("ask", flamingo, "What colour is it?", "--image", picture, "--words", "3", "--json")
    answer = json.loads(capsys.readouterr().out)["answer"]
    assert answer == pipe.ask(picture, "What colour is it?", words=3)
    run("caption", flamingo, "shapes:3", "--out", tmp_path / "c.jsonl", "--words", "3")
    assert len((tmp_path / "c.jsonl").read_text().splitlines()) == 3
    capsys.readouterr()
    run("info", flamingo)
    assert "eye:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "PIPE", "--text", "a heart"),
        ("edit", "PIPE", "--image", "WORK/picture.png", "--instruct", "make it blue"),
        ("edit", "PIPE", "--image", "WORK/picture.png", "--extend", "left=4"),
    ],
)
def test_what_draws_is_refused(
    work: Path, flamingo: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
):
    given = [a.replace("PIPE", str(flamingo)).replace("WORK", str(work)) for a in arguments]
    line = mistake(capsys, *given, "--out", work / "x.png")
    assert "reads pictures and writes text, it draws none" in line
    assert not (work / "x.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "language model is frozen, so it must be trained before: give --language"),
        (("--language", "LM", "--tokenizer", "LM"), "draws no pictures: leave --tokenizer out"),
        (("--language", "LM", "--eye", ""), "reads pictures by an eye"),
        (("--language", "LM", "--words", "LM"), "keeps its text tokenizer: leave --words out"),
        (("--language", "EYE"), "type must be one of language, sentences, got 'towers'"),
        (("--language", "LM", "--data.source", "shapes-all:20:draw"), "the model draws none"),
    ],
)
def test_runs_that_cannot_begin(
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
):
    places = {"LM": str(work / "writes" / "language"), "EYE": str(work / "sees" / "towers")}
    given = [places.get(a, a) for a in arguments]
    eye = [] if "--eye" in arguments else ["--eye", places["EYE"]]
    out = tmp_path / "refused"
    assert message in mistake(
        capsys, "train", "shapes_flamingo", "--out", out, *STEPS, *eye, *given
    )
    assert not (out / "pipeline").exists()


def test_an_eye_that_does_not_fit_is_refused(
    work: Path, flamingo: Path, capsys: pytest.CaptureFixture[str]
):
    wide = [word.replace("dim=16", "dim=24") for word in VISION]
    run("train", "shapes_siglip", "--out", work / "wide", "--model.size", "16",
        "--model.features", "24", "--data.source", "shapes:20", *wide, *STEPS)  # fmt: skip
    line = mistake(capsys, "train", "shapes_flamingo", "--init", flamingo, "--eye",
                   work / "wide" / "towers", "--out", work / "no", *STEPS)  # fmt: skip
    assert "the model reads 4 x 4 vectors of 16 numbers, of any length; the eye gives" in line


def test_captions_are_told_apart_and_read_for_a_tower(
    work: Path, capsys: pytest.CaptureFixture[str]
):
    writes, out = work / "writes" / "language", work / "sentences"
    run("train", "shapes_sentences", "--init", writes, "--out", out, "--data.source", "shapes:40",
        "--lora.rank", "4", "--length", "24", *STEPS)  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    names = ("other_to_caption_1", "caption_to_other_1")
    assert all(0 <= report[f"held_out_{n}{end}"] <= 1 for n in names for end in ("", "_before"))
    before, after = load_language(writes), load_language(out / "language")
    changed = [
        name
        for name, tensor in after.module.language.state_dict().items()
        if not torch.equal(tensor, before.module.state_dict()[name])
    ]
    assert changed and all(".attention.w" in n or ".feed_forward.w" in n for n in changed)
    with pytest.raises(ValueError, match="makes vectors of texts and writes none"):
        _ = after.writer
    run("train", "shapes_llm2clip", "--language", out / "language", "--out", work / "clip",
        "--model.length", "24", *SEES, *VISION, *STEPS)  # fmt: skip
    towers = load_towers(work / "clip" / "towers").towers
    kept = towers.text.sentences.state_dict()
    assert all(torch.equal(kept[name], t) for name, t in after.module.state_dict().items())
    capsys.readouterr()
    run("eval", work / "clip" / "towers", "--bootstrap", 4, "--metrics", "retrieval")
    assert "text_to_image_1" in capsys.readouterr().out


def test_sentences_are_measured_where_the_whole_model_is(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Among shards on a GPU it is on the CPU else, where a run has to begin from it."""
    averaged, evaluate = Trainer.averaged, language.Captions.evaluate
    inside, seen, places = list[int](), list[bool](), list[Any]()

    @contextmanager
    def noted(trainer: Trainer) -> Iterator[None]:
        with averaged(trainer):
            inside.append(1)
            yield
            inside.pop()

    def looked(look: language.Captions) -> dict[str, float]:
        seen.append(bool(inside))
        return evaluate(look)

    def loaded(path: str, device: Any = None) -> Any:
        places.append(device)
        return load_language(path, device)

    monkeypatch.setattr(Trainer, "averaged", noted)
    monkeypatch.setattr(language.Captions, "evaluate", looked)
    monkeypatch.setattr(language, "load_language", loaded)
    run("train", "shapes_sentences", "--init", work / "writes" / "language", "--out",
        tmp_path / "out", "--data.source", "shapes:40", "--length", "24", *STEPS)  # fmt: skip
    assert len(seen) >= 3 and all(seen) and places == ["cpu"]


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        ("shapes_sentences", ("--init", "LM", "--words", "LM"), "leave --words out"),
        ("shapes_language", ("--init", "LM", "--model.dim", "16"), "model.dim does nothing with"),
        ("shapes_sentences", ("--init", "LM", "--lora.rank", "64"), "lora.rank must be at most"),
        ("shapes_sentences", ("--init", "LM", "--data.source", "BARE"), "has two texts, such as"),
        ("shapes_sentences", ("--init", "SEES"), "type must be one of language, sentences"),
        ("shapes_siglip", ("--language", "LM"), "not by a language model: leave --language out"),
        ("shapes_llm2clip", ("--init", "SEES", "--language", "LM"), "leave --language out"),
    ],
)
def test_what_cannot_begin(
    work: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recipe: str,
    arguments: tuple[str, ...],
    message: str,
):
    bare = tmp_path / "bare"
    bare.mkdir()
    for i in range(4):
        Shapes(4)[i].image.save(bare / f"{i}.png")
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"picture {i}"}) for i in range(4)]
    (bare / "metadata.jsonl").write_text("\n".join(lines))
    places = {"LM": str(work / "writes" / "language"), "SEES": str(work / "sees" / "towers")}
    places["BARE"] = f"folder:{bare}"
    given = [places.get(a, a) for a in arguments]
    line = mistake(capsys, "train", recipe, "--out", tmp_path / "refused", *given, *STEPS)
    assert message in line, line


def test_a_run_notices_other_texts(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    notes = tmp_path / "notes.txt"
    notes.write_text("a red heart\n" * 20)
    writes = ("train", "shapes_language", *LANGUAGE[:8], "--row", "64", *STEPS)
    tells = ("train", "shapes_sentences", "--init", work / "writes" / "language", *STEPS)
    commands = {
        "writes": (*writes, "--data.source", f"text:{notes}"),
        "tells": (*tells, "--data.source", "shapes:40"),
    }
    for name, command in commands.items():
        run(*command, "--out", tmp_path / name)
        (tmp_path / name / "report.json").unlink()  # a run that is not finished
    notes.write_text("a blue star\n" * 20)
    commands["tells"] = (*commands["tells"], "--data.source", "shapes:44")
    for name, words in (("writes", "began with texts "), ("tells", "began: 4 added (40, 41, 42")):
        given = (*commands[name], "--out", tmp_path / name)
        assert words in mistake(capsys, *given)
        run(*given, "--data.on-changed", "go-on")
        assert "going on with" in capsys.readouterr().err
        (tmp_path / name / "report.json").unlink()
        run(*given)  # that is what it goes on with from now on
