"""What is advised for one's own pictures: measured rows, and steps that are computed from them."""

from pathlib import Path

import pytest
from PIL import Image

from smalti.cli import advice, catalogue
from smalti.cli.coding import encode
from smalti.cli.drawing import sample
from smalti.cli.main import main
from smalti.cli.options import check, options
from smalti.data.open import open_source
from smalti.data.source import Source


def test_the_page_has_the_table_of_what_was_measured():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert advice.table() in page
    row = "| 1,898 emoji in 9 classes | 32 | `emoji_vqgan` | 800 x 16 | 2.2 | 22.39 | "
    assert row + "`emoji_llamagen` | 3,000 x 16 | 3.1 | 5.405 | " in page
    assert "| `shapes_vqgan` | 1,500 x 16 | 1.5 |  | `shapes_t2i` |" in page  # no dB was measured


def test_pictures_of_ones_own(tmp_path, capsys):
    for name in ("cat", "dog"):
        for i in range(10):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (40 + i, 90), (i, 0, 0)).save(path)
    (tmp_path / "dog" / "broken.png").write_bytes(b"")
    main(["info", str(tmp_path)])
    said, told = capsys.readouterr()
    assert f"{tmp_path} is taken as folder:{tmp_path}" in told
    assert "skipped 1 that cannot be used: dog/broken.png" in told and "skipped: 1\n" in said
    assert "images: 20\nheld_out: 2\nclasses: [cat, dog]\ncaptions: 0\n" in said
    assert "pixels: shorter sides of 40 to 49\n" in said and "2.2 and 3.1 minutes, 22.39 dB" in said
    assert (
        f"\n  smalti train emoji_vqgan --data.source folder:{tmp_path} --out runs/tokenizer\n"
        in said
    )
    assert "\n  smalti sample runs/generator/pipeline --n 16 --out drawn.png\n" in said
    assert "--train.steps" not in said


def test_more_pictures_get_as_many_passes():
    report = advice.advice(open_source("shapes:18980"))
    assert "as many passes over your pictures: 22 and 31 minutes at that speed" in report["advice"]
    assert " --train.steps 8000 " in report["commands"][0]
    assert "emoji_llamagen" in report["commands"][1] and " 30000 " in report["commands"][1]


class Captioned(Source):
    """A source of so many pictures of 256 pixels with captions and without classes."""

    name, classes, skipped = "parquet:captions", list[str](), dict[str, str]()

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return open_source("shapes:30")[i % 30]._replace(image=Image.new("RGB", (256, 300)))

    def label(self, i):
        return -1

    def caption(self, i):
        return "a cat"

    def key(self, i):
        return str(i)


def test_captions_are_trained_on_where_there_are_no_classes():
    report = advice.advice(Captioned(50))
    assert "smalti train emoji_t2i --data.source parquet:captions" in report["commands"][1]
    assert "2.2 minutes" in report["advice"]
    large = advice.advice(Captioned(advice.LARGE))
    assert "train llamagen_t2i_stage1 --tokenizer" in large["commands"][2]
    assert "--text t5 --out codes.arrow" in large["commands"][1]


@pytest.mark.parametrize("count", [50, advice.LARGE])
def test_what_is_advised_can_be_typed(count):
    for command in advice.advice(Captioned(count))["commands"]:
        words = command[command.index("smalti") :].split()
        if words[1] == "train":
            fields = {f"--{f.replace('_', '-')}" for f in catalogue.fields(words[2])}
            assert {w for w in words[3:] if w.startswith("--")} <= {*fields, "--out"}
        elif words[1] == "sample":
            check(words[2:], options(sample))
        else:
            check(words[2:], options(encode))
