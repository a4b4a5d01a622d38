"""Each example runs, on a system that trains in seconds, and is short."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import close
import smalti
from small_systems import write_pictures
from smalti.cli.info import png_metadata

FOLDER = Path(__file__).parents[2] / "examples"
SETTINGS = "--steps 24 --batch 4 --channels 8 --dim 16".split()


def run(name: str, *arguments: object) -> None:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([str(a) for a in arguments])


pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What `own_images.py` leaves for a folder of two classes."""
    folder = tmp_path_factory.mktemp("own")
    write_pictures(folder / "pictures", 12, ("day", "night"))
    run("own_images", folder / "pictures", "--out", folder / "run", *SETTINGS)
    return folder / "run"


def test_own_images_leaves_a_pipeline_with_the_folders_classes(trained):
    pipe = smalti.load(trained / "generator" / "pipeline")
    assert pipe.classes == ["day", "night"] and pipe.model.config.dim == 16
    with Image.open(trained / "samples.png") as image:
        assert image.size == (4 * 66 + 2, 4 * 66 + 2)


def test_draw(trained, tmp_path):
    out, pipe = tmp_path / "grid.png", trained / "generator" / "pipeline"
    run("draw", pipe, "--columns", 3, "--guidance", 1.5, "--seed", 4, "--out", out)
    tags = png_metadata(out)["images"]
    assert [t["class_name"] for t in tags] == ["day"] * 3 + ["night"] * 3
    assert {(t["guidance"], t["seed"]) for t in tags} == {(1.5, 4)}
    with Image.open(out) as image:
        assert image.size == (3 * 34 + 2, 2 * 34 + 2)
        first = np.asarray(image)[2:34, 2:34]
    loaded = smalti.load(pipe)
    close.pixels(first, np.asarray(loaded(["day"], 1, seed=4, guidance=1.5)[0]), loaded.tokenizer)


def test_inpaint_keeps_the_left_half(trained, tmp_path, monkeypatch):
    out, pictures = tmp_path / "halves.png", write_pictures(tmp_path, 1)
    seen, draw = [], smalti.Pipeline.__call__

    def spy(self, *arguments, **options):
        seen.append((self, options["known"]))
        return draw(self, *arguments, **options)

    monkeypatch.setattr(smalti.Pipeline, "__call__", spy)
    pipe = trained / "generator" / "pipeline"
    run("inpaint", pipe, pictures / "000.png", "--label", "night", "--n", 3, "--out", out)
    ((_, known),) = seen
    assert known.mask.view(3, 8, 8)[:, :, :4].all() and not known.mask.view(3, 8, 8)[:, :, 4:].any()
    with Image.open(out) as image:
        assert image.size == (2 * 66 + 2, 2 * 66 + 2)


def test_edit_shows_original_mask_and_edited(trained, tmp_path):
    out, pictures = tmp_path / "edited.png", write_pictures(tmp_path, 2)
    files = [pictures / "000.png", pictures / "001.png"]
    pipe = trained / "generator" / "pipeline"
    run("edit", pipe, *files, "--label", "day", "--box", 0, 0.5, 1, 1, "--n", 3, "--out", out)
    with Image.open(out) as image:
        assert image.size == (5 * 66 + 2, 2 * 66 + 2)
        tiles = np.asarray(image)[2:66:2, 2:].astype(int)
    original, mask, *edited = (tiles[:, 66 * i : 66 * i + 64 : 2] for i in range(5))
    assert not mask[:16].any() and (mask[16:] == 255).all()
    for picture in edited:
        assert np.array_equal(picture[:16], original[:16])
        assert not np.array_equal(picture[16:], original[16:])


@pytest.mark.parametrize("rank", [0, 2])
def test_finetune_leaves_a_pipeline_with_other_classes(trained, tmp_path, rank):
    pictures = write_pictures(tmp_path / "pictures", 12, ("dusk", "night", "noon"))
    given = ["--out", tmp_path / "run", "--rank", rank, "--steps", 4, "--batch", 4]
    run("finetune", trained / "generator" / "pipeline", pictures, *given)
    pipe = smalti.load(tmp_path / "run" / "pipeline")
    assert pipe.classes == ["dusk", "night", "noon"] and pipe.model.config.dim == 16
    with Image.open(tmp_path / "run" / "samples.png") as image:
        assert image.size == (4 * 66 + 2, 4 * 66 + 2)


@pytest.mark.slow
def test_text_draws_each_prompt_in_a_column(tmp_path):
    prompts = ["a small red heart in the centre", "a large blue star at the top left"]
    options = ["--negative", "a green square", "--out", tmp_path]
    run("text", "shapes:48", "--prompt", *prompts, *options, *SETTINGS)
    tags = png_metadata(tmp_path / "drawn.png")["images"]
    assert [t["text"] for t in tags] == prompts * 4
    assert {t["negative"] for t in tags} == {"a green square"}
    with Image.open(tmp_path / "drawn.png") as image:
        assert image.size == (2 * 66 + 2, 4 * 66 + 2)


# -- notebooks


def run_cells(name: str, **parameters: object) -> dict:
    """Run the cells of a notebook one after another; what its first one sets, `parameters` set
    anew. Returns all that is named in the end."""
    text = (FOLDER / f"{name}.py").read_text()
    _, first, *others = re.split(r"(?m)^# %%.*\n", text)
    names = {"__name__": "__main__"}
    exec(first, names)
    assert parameters.keys() <= names.keys()
    names |= parameters
    for cell in others:
        exec(cell, names)
    return names


@pytest.mark.slow
def test_quickstart_draws_and_edits(trained, tmp_path):
    out = tmp_path / "pictures"
    found = run_cells("quickstart", PIPELINE=str(trained / "generator" / "pipeline"), OUT=out)
    assert found["names"] == ["day", "night"] and len(found["steps"]) == 4
    sizes = {path.name: Image.open(path).size for path in out.iterdir()}
    assert sizes["guidance.png"] == (2 * 66 + 2, 3 * 66 + 2)
    assert sizes["steps.png"] == (4 * 66 + 2, 68) and sizes["edited.png"] == (5 * 66 + 2, 68)
    assert sizes.keys() == {"drawn.png", "guidance.png", "steps.png", "edited.png"}
    kept, drawn = np.asarray(found["picture"]), [np.asarray(image) for image in found["edited"]]
    assert all(np.array_equal(kept[:16], image[:16]) for image in drawn)
    assert any(not np.array_equal(kept[16:], image[16:]) for image in drawn)


@pytest.mark.slow
def test_quickstart_takes_the_model_that_comes_along(tmp_path):
    found = run_cells("quickstart", OUT=tmp_path)
    assert found["names"][0] == "Smileys & Emotion" and len(found["names"]) == 4
    assert Image.open(tmp_path / "edited.png").size == (5 * 130 + 2, 132)
    tags = [image.info["smalti"] for image in found["edited"]]
    assert {tag["text"] for tag in tags} == {"Smileys & Emotion"}


@pytest.mark.slow
def test_training_notebooks_follow_each_other(tmp_path):
    source = f"folder:{write_pictures(tmp_path / 'pictures', 24, ('day', 'night'))}"
    small = {"SOURCE": source, "DIM": 16}
    found = run_cells("train_own", OUT=tmp_path / "own", STEPS=24, CHANNELS=8, **small)
    assert found["pipe"].classes == ["day", "night"] and found["tokenizer"]["held_out_psnr"] > 0
    assert (tmp_path / "own" / "samples.png").is_file()
    tokenizer = str(tmp_path / "own" / "tokenizer" / "tokenizer")
    given = {"OUT": tmp_path / "two", "TOKENIZER": tokenizer, "STEPS": 90}
    bits = run_cells("one_thing", **given, **small)["bits"]
    orders = {
        name: smalti.load(tmp_path / "two" / name / "pipeline").model.config.order for name in bits
    }
    assert orders == {"row-major": "row-major", "spiral-in": "spiral-in"}
    assert bits["row-major"] != bits["spiral-in"]


@pytest.mark.slow
def test_measure_finds_a_distance_for_each_guidance(trained, tmp_path, capsys):
    reference = f"folder:{write_pictures(tmp_path, 16, ('day', 'night'))}"
    pipe = str(trained / "generator" / "pipeline")
    found = run_cells("measure", PIPELINE=pipe, REFERENCE=reference)
    assert len(set(found["distances"].values())) == 3 and min(found["distances"].values()) > 0
    assert "bits_per_token" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.stem)
def test_an_example_says_its_command_and_stays_short(path):
    text = path.read_text()
    assert f"python examples/{path.name}" in text.split('"""')[1]
    assert len(text.splitlines()) <= 60
