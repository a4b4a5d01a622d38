"""How near drawn pictures are to those that were learned."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from smalti.data import styles

ROOT = Path(__file__).parents[2]
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "benchmarks"))
    import starter
    import styles_make
    import styles_pack


def noise(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_a_copy_is_found_and_other_pictures_are_none():
    learned, others = noise(40, 0), noise(30, 1)
    drawn = torch.cat((learned[[7, 3]], noise(2, 2)))
    far, number = starter.nearest(drawn, learned)
    assert number[:2].tolist() == [7, 3] and far[:2].max() < 1e-3 < far[2:].min()
    usual, _ = starter.nearest(others, learned)
    found = starter.distances({"train": far}, usual)
    assert found["copies_train"] == pytest.approx(0.5, abs=0.26) and found["copies_train"] >= 0.5
    assert found["nearest_real"] == pytest.approx(usual.median().item())
    black, white = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 255.0)
    assert starter.nearest(black, white)[0].item() == pytest.approx(1.0)


def test_packed_pictures_are_off_by_one_at_most():
    image = Image.fromarray(noise(1, 4)[0].permute(1, 2, 0).numpy())
    file = io.BytesIO()
    image.save(file, "PNG")
    packed = np.asarray(Image.open(io.BytesIO(styles_pack.small(file.getvalue(), 16))), int)
    wanted = np.asarray(image.resize((16, 16), Image.Resampling.BOX), int)
    assert packed.shape == (16, 16, 3) and np.abs(packed - wanted).max() == 1
    assert len(np.unique(packed)) <= 128


def test_pictures_are_made_of_packages(tmp_path):
    """As they are where they have 64 pixels, with their transparency; the rows stay otherwise."""
    rows = pq.read_table(styles.PACK).slice(0, 3)
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 4), np.uint8)
    for style, code in zip(rows["style"].to_pylist(), rows["codepoints"].to_pylist(), strict=True):
        file = tmp_path / styles_make.FILES[style].format(code)
        file.parent.mkdir(parents=True)
        some = image if style == "fluent3d" else image[:64, :64]
        Image.fromarray(some).save(file, lossless=True, exact=True)
    found = styles_make.made(tmp_path, rows)
    assert found.drop_columns("image") == rows.drop_columns("image")
    assert set(rows["style"].to_pylist()) == set(styles_make.FILES)
    for style, data in zip(found["style"].to_pylist(), found["image"].to_pylist(), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        assert pixels.shape == (64, 64, 4)
        assert style == "fluent3d" or np.array_equal(pixels, image[:64, :64])
    with pytest.raises(ValueError, match=r"1f468.*does not exist: see the npm packages"):
        styles_make.picture(tmp_path, "noto", "1f468")


def test_captions_are_spread():
    assert starter.spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert starter.spread(101, 3).tolist() == [0, 50, 100]


def test_the_page_shows_pairs_and_numbers(tmp_path):
    some = noise(20, 0)
    starter.pairs(some, some.flip(0), [f"name {i}" for i in range(20)], tmp_path / "pairs-held.png")
    starter.page(tmp_path, {"fwd_held": 1.23456, "n_held": 20})
    text = (tmp_path / "pairs.md").read_text()
    assert "| fwd_held | 1.235 |" in text and "| n_held | 20 |" in text
    assert "(pairs-held.png)" in text and (tmp_path / "pairs-held.png").stat().st_size > 1000


@pytest.mark.slow
def test_it_measures_a_pipeline(tmp_path, capsys):
    from builders import pipeline

    info = {"source": "styles", "holdout": 0.1}
    pipeline("maskbit-text", info=info).save_pretrained(tmp_path / "p")
    starter.main([str(tmp_path / "p"), "--n", "12", "--steps", "2", "--out", str(tmp_path / "out")])
    case = json.loads(capsys.readouterr().out)
    assert case["n_held"] == case["n_train"] == 12 and case["fwd_held"] > 0
    assert 0 <= case["accuracy_held"] <= 1 and case["nearest_real"] > 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "pairs.md", "pairs-held.png", "pairs-train.png"
    }  # fmt: skip
