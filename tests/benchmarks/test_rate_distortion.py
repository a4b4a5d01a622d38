"""The rate-distortion page: what is compared is alike, and the page says what was measured."""

import json
from pathlib import Path

import pytest
from PIL import Image

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import rate_distortion
    import rate_distortion_page

MEASURED = {
    "case": "vq",
    "title": "VQ",
    "holds": "one code",
    "text": False,
    "flip": True,
    "operations": (15.0e12, 14.9e12),
    "parameters": (2_000_000, 500_000),
    "encoder": 800_000,
    "codes": "64 of 4096",
    "raw_bits": 768.0,
    "bits": 500.0,
    "bound": False,
    "psnr": 20.0,
    "fwd_back": (10.0, [9.0, 11.0]),
    "fwd_drawn": (40.0, [38.0, 42.0]),
}
ROWS = [
    MEASURED,
    MEASURED | {"title": "IBQ", "psnr": 19.0, "fwd_drawn": (30.0, [28.0, 32.0])},
    MEASURED
    | {"title": "LFQ", "holds": "bits", "psnr": 22.5, "bits": 700.0, "encoder": 614_000}
    | {"fwd_drawn": (50.0, [48.0, 52.0])},
    MEASURED
    | {"title": "KL", "holds": "numbers", "raw_bits": None, "bits": None, "psnr": 19.5}
    | {"text": True, "flip": False, "fwd_drawn": (20.0, [19.0, 21.0])},
]


@pytest.mark.parametrize("name", rate_distortion.KINDS)
def test_kinds_are_of_equal_size_and_fit(name):
    tokenizer, generator = rate_distortion.recipes(name, "shapes:40")
    made = rate_distortion.fresh(tokenizer.model)
    assert tokenizer.model.size == rate_distortion.SIZE
    assert 600_000 < rate_distortion.encoder_size(made) < 850_000
    assert generator.model.spec == made.spec
    assert tokenizer.data.source == generator.data.source == "shapes:40"
    assert generator.data.flip != isinstance(generator, rate_distortion.TextRecipe)


def test_steps_are_what_a_budget_pays():
    assert rate_distortion.steps_for(15e12, 4.6e10) == 330
    assert rate_distortion.steps_for(1.0, 4.6e10) == 10, "at least ten"


def test_what_follows_from_the_numbers():
    one, bits, numbers, best = rate_distortion_page.said(ROWS).splitlines()
    assert one.startswith("- **one code** (IBQ): pictures come back 1.00 dB worse than by VQ, and ")
    assert bits == (
        "- **bits** (LFQ): pictures come back 2.50 dB better than by VQ, and the generator pays "
        "700 bits instead of 500; what is drawn is 1.25 times as far from real pictures."
    )
    assert numbers == (
        "- **numbers** (KL): pictures come back 0.50 dB worse than by VQ; what is drawn is 0.50 "
        "times as far from real pictures."
    )
    assert best == "- Nearest to real pictures draws KL; most of a picture keeps LFQ."


def test_each_tokenizer_has_its_sentence():
    """Also where several hold the same: tokens without places, and numbers, also deep ones."""
    rows = [ROWS[0]]
    for i, name in enumerate(rate_distortion.KINDS):
        kind = rate_distortion.KINDS[name]
        more = {"title": kind.title, "holds": kind.holds, "psnr": 10.0 + i / 10}
        rows.append(
            MEASURED | more | ({"bits": 320.4, "bound": True} if name == "tokens32" else {})
        )
    first, *others = rate_distortion_page.said(rows).splitlines()[:-1]
    for name, line in zip(rate_distortion.KINDS, [first, *others], strict=True):
        kind = rate_distortion.KINDS[name]
        assert line.startswith(f"- **{kind.holds}** ({kind.title}): pictures come back ")
    few, many, numbers, deep = others[-4:]
    assert "back 8.70 dB worse than by VQ, and the generator pays at most 320 bits" in few
    assert "back 8.60 dB worse than by VQ" in many and "8.50 dB" in numbers and "8.40 dB" in deep


def test_rows_of_before_say_that_their_names_stood_under_mirrored_pictures():
    row = {key: value for key, value in ROWS[3].items() if key != "flip"}
    assert "20 ± 1 (from names, also of mirrored pictures)" in rate_distortion_page.table([row])


def test_the_page_and_its_plot(tmp_path):
    about = {"images": 100, "data": "emoji", "hardware": "a machine", "threads": 2}
    about |= {"torch": "2.13", "commit": "abc", "real": {"fwd": 8.0}}
    text = rate_distortion_page.page(ROWS, about)
    assert "| one code | VQ | 64 of 4096 | 768 | 500 | 20.00 | 10 ± 1 | 40 ± 2 |" in text
    assert "20 ± 1 (from names)" in text and "614,000 to 800,000 parameters" in text
    assert "trains for 15 T operations" in text and "which are real, measure 8." in text
    assert "{" not in text
    assert text == rate_distortion_page.page(json.loads(json.dumps(ROWS)), about), "as printed"
    rate_distortion_page.plot(ROWS, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size == (1320, 648)
