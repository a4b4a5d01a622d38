"""Drawing by class, seed and number; streams; files; the hub."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import close
import smalti
from builders import build, random_codes
from smalti.describe import png_metadata
from smalti.engine.causal import Known
from smalti.models import llamagen
from smalti.pictures import grid, save_png, to_pil
from smalti.pipeline import Pipeline
from smalti.settings import Sampling
from smalti.storage import save_module
from smalti.tokenizers import vqgan

NAMES = ["Apple", "pear", "Fig", "plum", "7up"]


def pipeline(**sampling) -> Pipeline:
    return Pipeline(
        build(vqgan.VQGAN, vqgan.tiny()),
        build(llamagen.LlamaGen, llamagen.tiny()),
        NAMES,
        Sampling(**sampling),
        {"source": "shapes", "credit": "nobody"},
    )


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return pipeline(guidance=2.0)


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(i) for i in images])


def test_a_saved_pipeline_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    loaded = smalti.load(tmp_path / "p", device="cpu", dtype=torch.float32)
    assert loaded.classes == NAMES and loaded.sampling == pipe.sampling
    assert loaded.fingerprint == pipe.fingerprint
    assert loaded.info["source"] == "shapes" and loaded.info["credit"] == "nobody"
    images = loaded(n=6, seed=3)
    assert np.array_equal(pixels(images), pixels(pipe(n=6, seed=3)))
    assert [i.info["smalti"] for i in images] == [i.info["smalti"] for i in pipe(n=6, seed=3)]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["p"]


def test_fingerprint_changes_with_a_weight(pipe):
    other = pipeline()
    assert other.fingerprint == pipe.fingerprint
    other = pipeline()
    with torch.no_grad():
        other.model.norm.weight[0] += 1e-3
    first, second = pipe.fingerprint.split("-")
    assert other.fingerprint.startswith(first) and not other.fingerprint.endswith(second)


def test_an_image_depends_on_seed_and_number_alone(pipe):
    wanted = pixels(pipe(n=7, seed=5))
    assert len(np.unique(wanted.reshape(7, -1), axis=0)) == 7
    for batch in (1, 3, 64):
        close.pixels(pixels(pipe(n=7, seed=5, batch=batch)), wanted, pipe.tokenizer)
    parts = [pipe(n=2, seed=5), pipe(n=5, seed=5, first=2)]
    close.pixels(pixels(parts[0] + parts[1]), wanted, pipe.tokenizer)
    assert not np.array_equal(pixels(pipe(n=7, seed=6)), wanted)


def test_classes_by_name_number_and_turn(pipe):
    wanted = pixels(pipe([0, 2, 0, 2]))
    assert np.array_equal(pixels(pipe(["apple", "FIG"], n=4)), wanted)
    assert np.array_equal(pixels(pipe(["0", "2"], n=4)), wanted)
    assert [i.info["smalti"]["class"] for i in pipe(["PEAR"], n=2)] == [1, 1]
    assert [i.info["smalti"]["class_name"] for i in pipe()] == NAMES
    assert pipe.class_id("7UP") == 4
    unnamed = Pipeline(pipe.tokenizer, pipe.model)
    assert unnamed.classes == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("bad", ["cherry", 5, "5", "-1", -1, "²", ""])
def test_an_unknown_class_names_the_classes(pipe, bad):
    with pytest.raises(ValueError, match="[0-4]|Apple"):
        pipe([bad])


def test_the_nearest_of_a_thousand_classes_is_named(pipe):
    many = Pipeline(pipe.tokenizer, pipe.model, [f"kind {chr(97 + i % 26)}{i}" for i in range(999)])
    many.classes.append("Siamese cat")
    with pytest.raises(ValueError, match="got 'siamese cats'; did you mean 'Siamese cat'") as error:
        many.class_id("siamese cats")
    assert "0 ... 999" in str(error.value) and len(str(error.value)) < 300


def test_bad_arguments_name_what_is_allowed(pipe):
    with pytest.raises(ValueError, match="class must be one of 0 ... 4 or Apple, .*'cherry'"):
        pipe(["cherry"])
    with pytest.raises(
        ValueError, match="sampling has guidance, .*top_p, smooth, order, .*reveal, .*got topk"
    ):
        pipe(topk=3)
    with pytest.raises(ValueError, match="-1"):
        pipe(guidance=-1.0)
    with pytest.raises(ValueError, match="constant, linear.*'square'"):
        pipe(schedule="square")
    for bad in ({"n": 0}, {"batch": 0}, {"first": -1}, {"classes": []}):
        with pytest.raises(ValueError, match="at least 1"):
            pipe(**bad)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        next(pipe.stream(n=1, every=0))


def test_a_stream_ends_with_the_images_of_a_call(pipe):
    parts = list(pipe.stream(["Fig"], n=3, seed=2, every=5))
    assert [(p.step, p.total) for p in parts] == [(5, 16), (10, 16), (15, 16), (16, 16)]
    wanted = pipe(["Fig"], n=3, seed=2)
    assert np.array_equal(pixels(parts[-1].images), pixels(wanted))
    assert parts[-1].images[1].info["smalti"] == wanted[1].info["smalti"]


def test_partial_images_are_grey_where_nothing_is_drawn(pipe):
    parts = list(pipe.stream(n=2, seed=1, every=6))
    early = pixels(parts[0].images)  # one row of four cells and two cells more
    assert (early[:, 8:] == 128).all() and (early[:, 4:8, 8:] == 128).all()
    assert early[:, :4].std() > 5 and early[:, 4:8, :8].std() > 5


def test_known_codes_come_out_as_given_in_any_batch(pipe):
    codes = random_codes(pipe.model.spec, 5)
    mask = torch.zeros(5, 16, dtype=torch.bool)
    mask[:, ::2] = True
    wanted = pixels(pipe(n=5, known=Known(codes, mask)))
    close.pixels(pixels(pipe(n=5, batch=2, known=Known(codes, mask))), wanted, pipe.tokenizer)
    given = Known(codes, torch.ones(5, 16, dtype=torch.bool))
    assert np.array_equal(pixels(pipe(n=5, known=given)), pixels(to_pil(pipe.decode(codes))))
    with pytest.raises(ValueError, match=r"known codes must be \(5, 16\), got \(5, 9\)"):
        pipe(n=5, known=Known(codes[:, :9], mask))
    with pytest.raises(ValueError, match=r"mask of known codes must be \(5, 16\) bool, got \(5, 9"):
        pipe(n=5, known=Known(codes, mask[:, :9]))
    with pytest.raises(ValueError, match="bool, got .*int64"):
        pipe(n=5, known=Known(codes, mask.long()))


def test_a_png_remembers_how_to_draw_it_again(pipe, tmp_path):
    image = pipe(["plum"], n=3, seed=8, temperature=0.9, top_k=20)[2]
    save_png(image, tmp_path / "new" / "image.png")
    tag = png_metadata(tmp_path / "new" / "image.png")
    assert tag == image.info["smalti"]
    assert (tag["seed"], tag["index"], tag["class_name"]) == (8, 2, "plum")
    assert (tag["temperature"], tag["top_k"], tag["guidance"]) == (0.9, 20, 2.0)
    settings = {k: tag[k] for k in ("guidance", "temperature", "top_k", "top_p", "schedule")}
    again = pipe([tag["class"]], 1, seed=tag["seed"], first=tag["index"], **settings)
    assert np.array_equal(pixels(again)[0], np.asarray(Image.open(tmp_path / "new" / "image.png")))
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["image.png"]


def test_grid_layout():
    images = [Image.new("RGB", (3, 2), (i, 0, 0)) for i in range(5)]
    sheet = np.asarray(grid(images, columns=2, zoom=2))
    assert sheet.shape == (3 * 6 + 2, 2 * 8 + 2, 3)
    for i in range(5):
        y, x = 2 + 6 * (i // 2), 2 + 8 * (i % 2)
        assert (sheet[y : y + 4, x : x + 6] == (i, 0, 0)).all()
    assert (sheet[14:18, 10:16] == 255).all() and (sheet[:2] == 255).all()
    assert grid(images[:4]).size == (2 * 5 + 2, 2 * 4 + 2)
    with pytest.raises(ValueError, match="at least one image"):
        grid([])


def test_encode_and_decode_round_trip_through_uint8(pipe):
    images = pipe.decode(random_codes(pipe.model.spec, 2))
    assert images.dtype == torch.uint8 and images.shape == (2, 3, 16, 16)
    assert pipe.encode(images).shape == (2, 16)


# -- files


def test_codes_of_another_shape_are_refused(pipe):
    other = build(llamagen.LlamaGen, replace(llamagen.tiny(), vocab=33))
    with pytest.raises(ValueError, match="other codes.*vocab=32.*vocab=33"):
        Pipeline(pipe.tokenizer, other)


def test_another_tokenizer_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    save_module(build(vqgan.VQGAN, vqgan.tiny(), seed=1), tmp_path / "p" / "tokenizer")
    mark = pipe.fingerprint.split("-")[0]
    with pytest.raises(ValueError, match=f"trained on codes of tokenizer {mark}, the folder holds"):
        smalti.load(tmp_path / "p")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pipeline.json", "is not a pipeline: it has no pipeline.json"),
        ("tokenizer/config.json", "tokenizer is not a folder with a config.json"),
        ("model/model.safetensors", "model.safetensors cannot be read"),
    ],
)
def test_a_missing_file_is_named(pipe, tmp_path, file, message):
    pipe.save_pretrained(tmp_path / "p")
    (tmp_path / "p" / file).unlink()
    with pytest.raises(ValueError, match=message):
        smalti.load(tmp_path / "p")


def test_a_damaged_file_is_named(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "p")
    path = tmp_path / "p" / "pipeline.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"sampling": {"guidence": 2.0}}))
    with pytest.raises(ValueError, match="'guidence'; did you mean 'guidance'"):
        smalti.load(tmp_path / "p")
    path.write_text("{")
    with pytest.raises(ValueError, match="pipeline.json is not valid JSON"):
        smalti.load(tmp_path / "p")


# -- the hub


def test_push_uploads_a_folder_that_loads(pipe, monkeypatch):
    import huggingface_hub

    seen = {}

    class Api:
        def create_repo(self, repo, private, exist_ok):
            seen["repo"] = (repo, private, exist_ok)

        def upload_folder(self, repo_id, folder_path):
            loaded = smalti.load(folder_path, device="cpu", dtype=torch.float32)
            seen["upload"] = (repo_id, loaded.fingerprint)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert pipe.push_to_hub("me/fruit", private=True) == "https://hub/me/fruit"
    assert seen == {
        "repo": ("me/fruit", True, True),
        "upload": ("me/fruit", pipe.fingerprint),
    }


def test_load_by_hub_id(pipe, tmp_path, monkeypatch):
    import huggingface_hub

    pipe.save_pretrained(tmp_path / "p")
    asked = []

    def snapshot(repo):
        asked.append(repo)
        if repo != "me/fruit":
            raise OSError("401\nmore lines")
        return str(tmp_path / "p")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    loaded = smalti.load("me/fruit", device="cpu", dtype=torch.float32)
    assert loaded.fingerprint == pipe.fingerprint
    with pytest.raises(ValueError, match="me/other is not a folder, and the hub .*: 401$"):
        smalti.load("me/other")
    for bad in ("fruit", "./me/fruit", "/me/fruit", "a/b/c"):
        with pytest.raises(ValueError, match="neither a folder nor a hub id"):
            smalti.load(bad)
    assert asked == ["me/fruit", "me/other"] and not Path("me").exists()
