"""Emoji in several styles: the file that comes with smalti, and others."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smalti.data import styles
from smalti.data.open import class_of, open_source
from smalti.data.source import split, wordings
from smalti.data.styles import CREDIT, PACK

NAMES = {"1f600": "grinning face", "1f34e": "red apple", "1f34c": "banana"}
GROUPS = {"1f600": (0, "Smileys"), "1f34e": (2, "Food"), "1f34c": (2, "Food")}
STYLES = ("noto", "twemoji")


def picture(colour: tuple[int, int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), colour).save(file, "WEBP", lossless=True)
    return file.getvalue()


def rows() -> dict[str, list]:
    every = [(code, style) for code in NAMES for style in STYLES]
    return {
        "image": [picture((10 * i, 0, 0, 255 if i else 0)) for i in range(len(every))],
        "caption": [NAMES[code] for code, _ in every],
        "keywords": [["smile ", "happy"] if code == "1f600" else [] for code, _ in every],
        "label": [GROUPS[code][0] for code, _ in every],
        "group": [GROUPS[code][1] for code, _ in every],
        "codepoints": [code for code, _ in every],
        "style": [style for _, style in every],
    }


def written(path: Path, **changes) -> Path:
    columns = {name: value for name, value in (rows() | changes).items() if value is not None}
    pq.write_table(pa.table(columns), path)
    return path


def test_captions_end_with_the_style(tmp_path):
    name = f"styles:{written(tmp_path / 'a.parquet')}"
    source = open_source(name)
    assert len(source) == 6 and source.name == name and source.classes == ["Smileys", "", "Food"]
    assert source.key(1) == "1f600#twemoji" and source.caption(1) == "grinning face, twemoji"
    assert wordings(source, 0) == [
        "grinning face, noto", "grinning face", "Smileys, noto", "smile, noto", "happy, noto"
    ]  # fmt: skip
    assert wordings(source, 3) == ["red apple, twemoji", "red apple", "Food, twemoji"]
    keys = [source.key(i) for i in range(6)]
    style = class_of(name).style
    assert source.styles == sorted(set(map(style, keys))) == ["noto", "twemoji"]
    assert class_of("emoji:skin_tones").style("1f44b#1f3fd") == ""
    first, second = source[0], source[1]
    assert first.image.getpixel((0, 0)) == (255, 255, 255), "what is transparent is white"
    assert second.image.getpixel((0, 0)) == (10, 0, 0) and (first.label, source.label(5)) == (0, 2)


def test_all_styles_of_an_emoji_are_held_out_together(tmp_path):
    source = open_source(f"styles:{written(tmp_path / 'a.parquet')}")
    train, held = split(source, 0.3)
    codes = [{source.key(i).partition("#")[0] for i in part} for part in (train, held)]
    assert len(held) == 2 and not codes[0] & codes[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"style": None}, "no column 'style'; emoji in styles have image, caption, keywords"),
        ({"label": list("abcdef")}, "column 'label' holds string, which no label can be"),
        ({"keywords": ["x"] * 6}, "column 'keywords' holds string, which no keywords can be"),
        ({"caption": ["x", None] * 3}, "column 'caption' has 3 rows without one"),
        ({"label": [-1] * 6}, r"labels must be in \[0, 1048576\), got -1"),
        ({"label": [2] * 6}, "a label must have one group"),
    ],
)
def test_bad_files_are_named(tmp_path, changes, words):
    path = written(tmp_path / "a.parquet", **changes)
    with pytest.raises(ValueError, match=f"a.parquet.*{words}"):
        open_source(f"styles:{path}")


def test_files_that_are_none(tmp_path):
    (tmp_path / "b.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="b.parquet is not a parquet file"):
        open_source(f"styles:{tmp_path / 'b.parquet'}")
    with pytest.raises(ValueError, match="c.parquet does not exist"):
        open_source(f"styles:{tmp_path / 'c.parquet'}")


def test_the_pictures_that_come_with_smalti():
    source = open_source("styles")
    assert len(source) == 5347 and len(source.classes) == 9 and source.name == "styles"
    assert source.classes[0] == "Smileys & Emotion" and source.classes[8] == "Flags"
    assert source.styles == ["fluent3d", "noto", "twemoji"]
    assert len({source.key(i) for i in range(len(source))}) == len(source)
    image = source[0].image
    assert image.size == (32, 32) and image.getpixel((0, 0)) == (255, 255, 255)
    assert len(np.unique(np.asarray(image))) <= 128
    assert PACK.stat().st_size <= 5e6
    told = (PACK.parent / "LICENSE.md").read_text()
    assert all(word in told for word in ("Apache-2.0", "CC-BY 4.0", "MIT"))
    assert "Twemoji, (c) Twitter, Inc and other contributors, CC-BY 4.0" in told
    assert source.credit == class_of(f"styles:{PACK}").credit == CREDIT and "Twemoji, (c)" in CREDIT


def test_a_folder_of_that_name_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(styles, "PACK", written(tmp_path / "a.parquet"))
    (tmp_path / "styles").mkdir()
    assert len(open_source("styles")) == 6
    assert "styles is the built-in source; ./styles is the folder" in capsys.readouterr().err


def test_other_pictures_of_the_same_names_are_another_source(tmp_path):
    noisy = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    images = []
    for pixels in noisy:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "WEBP", lossless=True)
        images.append(file.getvalue())
    files = written(tmp_path / "a.parquet"), written(tmp_path / "b.parquet", image=images)
    first, again, other = (
        open_source(f"styles:{file}").fingerprint() for file in (files[0], *files)
    )
    assert first == again != other
