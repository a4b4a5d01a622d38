"""Which pictures `smalti reconstruct` shows, and what `smalti encode` keeps."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from builders import build
from small_systems import mistake
from smalti.cli import main as cli
from smalti.cli.coding import Contents, chosen_part, coder_of
from smalti.data import styles
from smalti.data.open import open_source
from smalti.data.source import split
from smalti.data.token_cache import TokenCache
from smalti.data.transforms import Transform, to_float
from smalti.loading import load_tokenizer
from smalti.modules import save_module
from smalti.pipeline.pipeline import Pipeline
from smalti.runs.tokenizer import spread
from smalti.text.t5 import T5Config
from smalti.tokenizers import vqgan

pytestmark = pytest.mark.usefixtures("float32")


def test_spread_takes_pictures_from_everywhere():
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread([3, 5, 8], 32) == [3, 5, 8]
    assert spread(np.arange(10, 20), 3) == [10, 13, 16]
    assert spread([], 3) == []


@pytest.fixture
def folder(tmp_path):
    """Pictures whose colour says their place, and a tokenizer that was trained on them."""
    for i in range(60):
        path = tmp_path / "pictures" / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (4 * i, 0, 0)).save(path)
    source = f"folder:{tmp_path / 'pictures'}"
    save_module(build(vqgan.VQGAN, vqgan.tiny()), tmp_path / "t", source=source, holdout=0.2)
    return tmp_path


def test_of_its_own_images_a_tokenizer_shows_those_held_out(folder, monkeypatch):
    name = f"folder:{folder / 'pictures'}"
    train, held = split(open_source(name), 0.2)
    assert len(held) == 12
    assert chosen_part(name, folder / "t")[1:] == (held, " of the 12 held out in training")
    assert chosen_part(f"{name}@train", folder / "t")[1:] == (train, " of the 48 seen in training")
    assert chosen_part(f"{name}@held", folder / "t")[1] == held
    monkeypatch.chdir(folder)
    assert chosen_part("folder:pictures", folder / "t")[1] == held


def test_of_other_images_all_are_shown(folder):
    source, chosen, words = chosen_part("shapes:40", folder / "t")
    assert (source.name, list(chosen), words) == ("shapes:40", list(range(40)), "")
    assert chosen_part("shapes:40@held", folder / "t")[1] == split(source, 0.1)[1]


def test_a_pipeline_says_what_it_was_trained_on(folder):
    from smalti.models import llamagen

    info = {"source": "shapes:40", "holdout": 0.5}
    tokenizer, model = build(vqgan.VQGAN, vqgan.tiny()), build(llamagen.LlamaGen, llamagen.tiny())
    Pipeline(tokenizer, model, list("abcde"), info=info).save_pretrained(folder / "p")
    held = split(open_source("shapes:40"), 0.5)[1]
    assert chosen_part("shapes:40", folder / "p")[1] == held


def test_the_pipeline_that_comes_with_smalti_says_so_too():
    _, chosen, words = chosen_part("styles", Path("smalti/emoji64"))
    assert words == f" of the {len(chosen)} held out in training"


def test_other_emoji_in_styles_were_not_held_out(tmp_path):
    shutil.copy(styles.PACK, tmp_path / "mine.parquet")
    source, chosen, words = chosen_part(f"styles:{tmp_path / 'mine.parquet'}", "smalti/emoji64")
    assert len(chosen) == len(source) and words == ""


def test_where_none_is_held_out_it_is_said(folder):
    config = json.loads((folder / "t" / "config.json").read_text()) | {"holdout": 0.0}
    (folder / "t" / "config.json").write_text(json.dumps(config))
    name = f"folder:{folder / 'pictures'}"
    _, chosen, words = chosen_part(name, folder / "t")
    assert (len(chosen), words) == (60, ", which training saw: it held none out")
    with pytest.raises(ValueError, match="@held has no images: 0.0 of 60 are held out"):
        chosen_part(f"{name}@held", folder / "t")


def test_pictures_that_are_no_squares_are_refused(folder, capsys):
    oblong = build(vqgan.VQGAN, replace(vqgan.tiny(), size=(16, 32)))
    save_module(oblong, folder / "oblong")
    for command in (("reconstruct", folder / "oblong", "shapes:4", "--out", folder / "r.png"),
                    ("encode", "shapes:4", "--tokenizer", folder / "oblong", "--out",
                     folder / "c.arrow")):  # fmt: skip
        line = mistake(capsys, *command)
        assert "pictures are cut to squares here, this tokenizer takes 16x32" in line


def test_the_command_spreads_what_it_shows(folder, capsys):
    torch.set_num_threads(1)
    out, name = folder / "r.png", f"folder:{folder / 'pictures'}"
    cli.main(["reconstruct", str(folder / "t"), name, "--n", "3", "--out", str(out)])
    held = split(open_source(name), 0.2)[1]
    wanted = [4 * held[i] for i in (0, 4, 8)]
    with Image.open(out) as image:
        pixels = np.asarray(image)
    step = (pixels.shape[1] - 2) // 3
    assert [int(pixels[2, 2 + step * i, 0]) for i in range(3)] == wanted
    assert "3 images of the 12 held out in training, " in capsys.readouterr().err


@torch.inference_mode()
def test_ten_crops_are_ten_views(folder, capsys):
    out = folder / "c.arrow"
    given = ["--tokenizer", str(folder / "t"), "--crop", "ten", "--out", str(out)]
    cli.main(["encode", "shapes:3", *given])
    cache, module = TokenCache(out), load_tokenizer(folder / "t", "cpu")
    assert cache.views == 10 and "3 images, 10 views of 16 codes each" in capsys.readouterr().err
    source, transform = open_source("shapes:3"), Transform(16, "ten", True)
    views = np.stack([transform.views(source[i].image) for i in range(3)])
    codes = module.encode(to_float(torch.from_numpy(views).flatten(0, 1))).view(3, 10, -1)
    assert len(codes.flatten(0, 1).unique(dim=0)) > 3
    for view in range(10):
        assert torch.equal(cache.codes(np.arange(3), view), codes[:, view])


def test_what_is_kept_of_captions_and_images(folder):
    module = load_tokenizer(folder / "t", "cpu")
    coder = coder_of("shapes:3", module, Contents(text="t5", clean=True, flip=False, holdout=0.4))
    assert coder.transform == Transform(16, "center", False) and coder.holdout == 0.4
    assert coder.text is not None and coder.text.config == T5Config(clean=True)
    usual = coder_of("shapes:3", module, Contents(text="t5"))
    assert usual.text is not None and usual.text.config == T5Config()
    assert usual.transform == Transform(16, "center", True)
