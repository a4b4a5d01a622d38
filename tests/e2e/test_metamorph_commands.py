"""MetaMorph and its renderer by commands: towers, a renderer of what they see, a model that says
it; pictures rendered and read; one line for every mistake."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from small_systems import TRAIN, write_pictures
from smalti.cli.main import main
from smalti.loading import load_tokenizer, load_towers, save_towers
from smalti.modules import TOKENIZERS, fingerprint, module_of, save_module

pytestmark = pytest.mark.usefixtures("float32")
TOWERS = (
    *("--data.source shapes:40 --model.size 16 --model.features 16".split()),
    *("--train.batch 8 --train.steps 2 --train.device cpu".split()),
    *(f"--model.{tower}.{name}={value}" for tower in ("vision", "text")
      for name, value in (("dim", 16), ("heads", 2), ("layers", 1), ("ffn-dim", 32))),
)  # fmt: skip
RENDERER = (
    *"--data.source shapes:40 --model.size 16 16 --model.grid 2 2 --model.evaluations 2".split(),
    *"--model.renderer.layers 1 --model.renderer.heads 2 --model.renderer.dim 16".split(),
    *"--model.renderer.adapter.width 16 --model.renderer.adapter.hidden 16".split(),
    *"--train.steps 4".split(),
    *TRAIN,
)
RUN = (
    *"--data.source captioned:shapes:40 --data.holdout 0.25 --row 64 --train.steps 2".split(),
    *TRAIN,
)
MODEL = (
    *"--data.source captioned:shapes:40 --data.holdout 0.25 --row 64 --vocab 280".split(),
    *"--model.language.layers 1 --model.language.heads 2 --model.language.dim 16".split(),
    *"--model.language.ffn-dim 16 --train.steps 4".split(),
    *TRAIN,
)


def run(*arguments):
    main([str(a) for a in arguments])


def mistake(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Towers `a`, a renderer `r` of what they see, a model `m` that says it; other towers `b`."""
    folder = tmp_path_factory.mktemp("metamorph")
    run("train", "shapes_siglip", "--out", folder / "a", *TOWERS)
    run("train", "shapes_renderer", "--towers", folder / "a" / "towers", "--out", folder / "r",
        *RENDERER)  # fmt: skip
    matcher = load_towers(folder / "a" / "towers", "cpu")
    with torch.no_grad():
        matcher.towers.vision.positions.mul_(-1)
    save_towers(matcher, folder / "b")
    run("train", "shapes_metamorph", "--tokenizer", folder / "r" / "tokenizer", "--out",
        folder / "m", *MODEL)  # fmt: skip
    write_pictures(folder / "pictures", 3)
    return folder


def test_features_are_said_and_rendered(work, tmp_path, capsys):
    report = json.loads((work / "m" / "report.json").read_text())
    assert -1 <= report["held_out_features"] <= 1 and 0 < report["held_out_bits_per_byte"] < 10
    assert (work / "m" / "previews" / "step-00000004.png").is_file()
    pipe, picture = work / "m" / "pipeline", work / "pictures" / "000.png"
    for seed in (1, 2):  # nothing is random
        run("sample", pipe, "--text", "a red heart", "--seed", seed, "--out",
            tmp_path / f"{seed}.png")  # fmt: skip
    one, two = (Image.open(tmp_path / f"{seed}.png") for seed in (1, 2))
    assert one.tobytes() == two.tobytes()
    capsys.readouterr()
    run("ask", pipe, "what is it?", "--image", picture, "--words", 3)
    run("caption", pipe, work / "pictures", "--out", tmp_path / "c.jsonl", "--words", 3)
    assert len((tmp_path / "c.jsonl").read_text().splitlines()) == 3
    run("info", pipe)


def test_a_renderer_is_a_tokenizer(work, tmp_path, capsys):
    tokenizer, source = work / "r" / "tokenizer", f"folder:{work / 'pictures'}"
    report = json.loads((work / "r" / "report.json").read_text())
    assert report["held_out_psnr"] > 0
    run("reconstruct", tokenizer, source, "--out", tmp_path / "r.png")
    assert Image.open(tmp_path / "r.png").size[0] > 16
    run("encode", source, "--tokenizer", tokenizer, "--out", tmp_path / "c.arrow")
    assert (tmp_path / "c.arrow").is_file()
    run("train", "shapes_renderer", "--init", tokenizer, "--out", work / "more", *RENDERER)
    assert json.loads((work / "more" / "report.json").read_text())["steps"] == 4


def test_one_line_for_every_mistake(work, tmp_path, capsys):
    out = ("--out", tmp_path / "x")
    line = mistake(capsys, "train", "shapes_renderer", *RENDERER, *out)
    assert "needs --towers DIR, made by training towers" in line
    line = mistake(capsys, "train", "shapes_renderer", *RENDERER, *out, "--init",
                   work / "r" / "tokenizer", "--towers", work / "b")  # fmt: skip
    assert "has a ViT: leave --towers out" in line
    line = mistake(capsys, "train", "shapes_metamorph", "--tokenizer", work / "r" / "tokenizer",
                   *MODEL, *out, "--model.form", "plain")  # fmt: skip
    assert "MetaMorph writes pictures of one grid of codes of" in line
    assert "the tokenizer gives 1 of codes of 16 numbers (unit)" in line
    line = mistake(capsys, "train", "shapes_transfusion", "--tokenizer", work / "r" / "tokenizer",
                   *out)  # fmt: skip
    assert "numbers (unit)" in line
    line = mistake(capsys, "train", "shapes_renderer", *RENDERER, *out, "--towers",
                   work / "a" / "towers", "--model.renderer.layers", 0)  # fmt: skip
    assert "these features have no renderer" in line
    assert not (tmp_path / "x" / "recipe.json").exists()


def test_a_renderer_of_other_features_is_refused(work, tmp_path, capsys):
    """Another tower's, and one whose features have another length, in the pipeline's folder."""
    shutil.copytree(work / "m" / "pipeline", tmp_path / "p")
    tokenizer = load_tokenizer(tmp_path / "p")
    config = tokenizer.config
    other = module_of(config, TOKENIZERS)
    other.load_state_dict(tokenizer.state_dict())
    other.see_with(load_towers(work / "b", "cpu").towers)
    longer = module_of(replace(config, form="plain"), TOKENIZERS)
    longer.load_state_dict(tokenizer.state_dict())
    for wrong in (other, longer):
        save_module(wrong, tmp_path / "p" / "tokenizer")
        line = mistake(capsys, "sample", tmp_path / "p", "--text", "a", "--out", tmp_path / "s.png")
        assert "the model was trained with tokenizer" in line and not (tmp_path / "s.png").exists()


def test_a_run_that_goes_on_names_what_it_does_not_take(work, tmp_path, capsys):
    """A renderer of what another tower sees, and the recipe of another system: refused before any
    picture is encoded. The pipeline's own tokenizer may be named."""
    tokenizer = load_tokenizer(work / "r" / "tokenizer")
    tokenizer.see_with(load_towers(work / "b", "cpu").towers)
    save_module(tokenizer, tmp_path / "other")
    out, pipe = tmp_path / "x", work / "m" / "pipeline"
    line = mistake(capsys, "train", "shapes_metamorph", "--init", pipe, "--tokenizer",
                   tmp_path / "other", *RUN, "--out", out)  # fmt: skip
    assert f"/other is tokenizer {fingerprint(tokenizer)}, but {pipe} has" in line
    assert "leave --tokenizer out, its own is then taken" in line
    line = mistake(capsys, "train", "shapes_chameleon", "--init", pipe, *RUN, "--out", out)
    assert "holds a metamorph, which this recipe does not train: it takes OneVoc" in line
    assert not out.exists()
    run("train", "shapes_metamorph", "--init", pipe, "--tokenizer", work / "r" / "tokenizer",
        *RUN, "--out", out)  # fmt: skip
    assert (out / "pipeline" / "pipeline.json").is_file()
