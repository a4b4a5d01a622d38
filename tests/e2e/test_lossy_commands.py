"""Drawing that loses something, by the real command."""

import json

import numpy as np
import pytest
from PIL import Image

from builders import pipeline
from smalti.cli.main import main

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lossy")
    for name in ("var", "llamagen"):
        pipeline(name).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "options", "tag"),
    [
        ("var", ["--prune", "0.3", "0.5"], {"prune": [0.3, 0.5], "prune_layers": 0.5}),
        ("llamagen", ["--parallel", "zipar", "--window", "1"], {"parallel": "zipar", "window": 1}),
    ],
)
def test_another_picture_that_is_drawn_again(folders, tmp_path, name, options, tag):
    def drawn(file, *more):
        main(["sample", str(folders / name), "--n", "1", "--out", str(tmp_path / file), *more])
        return np.asarray(Image.open(tmp_path / file))

    lossy, exact = drawn("lossy.png", *options), drawn("exact.png")
    assert (lossy != exact).any()
    with Image.open(tmp_path / "lossy.png") as image:
        told = json.loads(image.text["smalti"])
    told = told.get("images", [told])[0]
    assert {key: told[key] for key in tag} == tag
    main(["sample", str(folders / name), "--like", str(tmp_path / "lossy.png"), "--out",
          str(tmp_path / "again.png")])  # fmt: skip
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), lossy)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("var", "--prune 1", "prune must be numbers in [0, 1), got (1.0,)"),
        ("var", "--prune 0.1 0.1 0.1", "prune must be shares of at most 2 of 3 scales"),
        ("var", "--prune-layers 2", "prune_layers must be in [0, 1], got 2"),
        ("var", "--parallel zipar", "parallel zipar is for models that draw one discrete code"),
        ("llamagen", "--prune 0.5", "prune (0.5,) is for models of scales"),
        ("llamagen", "--parallel zipper", "got 'zipper'; did you mean 'zipar'?"),
        ("llamagen", "--parallel zipar --order spiral-in", "zipar is for models that draw"),
    ],
)
def test_what_cannot_be(folders, tmp_path, capsys, name, options, words):
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(folders / name), "--out", str(tmp_path / "x.png"), *options.split()])
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert stop.value.code == 2 and words in line and not list(tmp_path.iterdir())
