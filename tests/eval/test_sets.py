import json
import threading
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from small_systems import write_pictures
from smalti import progress
from smalti.data.transforms import center_crop
from smalti.eval.sets import open_set, same_size


def pixels_of(pictures, n=64) -> np.ndarray:
    """All pictures, (N, H, W, 3)."""
    batches = [b.permute(0, 2, 3, 1).numpy() for b in pictures.batches(n)]
    assert all(len(b) <= n for b in batches)
    return np.concatenate(batches)


def noise(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def write_folder(folder, pixels):
    folder.mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i:03d}.png")
    return folder


# -- what comes out


@given(count=st.integers(1, 9), n=st.integers(1, 12), packed=st.booleans())
@settings(max_examples=20)
def test_batches_of_an_npz_are_its_pictures_in_order(tmp_path_factory, count, n, packed):
    path = tmp_path_factory.mktemp("set") / "a.npz"
    pixels = noise(count, 5, 4, 3, seed=count)
    (np.savez_compressed if packed else np.savez)(path, arr_0=pixels)
    pictures = open_set(path)
    assert np.array_equal(pixels_of(pictures, n), pixels)
    assert (len(pictures), pictures.size, pictures.crop) == (count, (5, 4), "none")
    numbers = np.concatenate([rows.numbers for rows in pictures.numbered(n)])
    assert numbers.tolist() == list(range(count))
    assert pictures.hash == open_set(path).hash


def test_folder_and_npz_of_equal_pixels_are_one_set(tmp_path):
    pixels = noise(11, 16, 16, 3)
    folder = open_set(write_folder(tmp_path / "pictures", pixels))
    npz = open_set(write_npz(tmp_path / "a.npz", arr_0=pixels))
    assert np.array_equal(pixels_of(folder, 3), pixels) and folder.size == (16, 16)
    assert folder.hash == npz.hash and len(folder.hash) == 16
    pixels[7, 3, 3, 1] ^= 1
    assert open_set(write_npz(tmp_path / "b.npz", arr_0=pixels)).hash != npz.hash
    wide = open_set(write_npz(tmp_path / "c.npz", arr_0=pixels.reshape(11, 8, 32, 3)))
    assert wide.hash != open_set(tmp_path / "b.npz").hash
    same_size(folder, npz)
    with pytest.raises(ValueError, match=r"pictures has .* 16 x 16 pixels, .*c.npz of 8 x 32; --"):
        same_size(folder, wide)


def test_the_hash_needs_a_whole_pass(tmp_path):
    path = write_npz(tmp_path / "a.npz", arr_0=noise(9, 4, 4, 3))
    begun = open_set(path)
    next(begun.batches(2))
    assert begun.hash == open_set(path).hash


def test_an_npz_is_never_in_memory_whole(tmp_path):
    path = write_npz(tmp_path / "a.npz", arr_0=np.zeros((2000, 64, 64, 3), np.uint8))  # 24.6 MB
    tracemalloc.start()
    try:
        assert sum(len(b) for b in open_set(path).batches(16)) == 2000
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_pictures_are_cropped_and_resized_as_in_training(tmp_path, kind):
    pixels = noise(5, 40, 24, 3)
    given = (
        write_folder(tmp_path / "p", pixels)
        if kind == "folder"
        else write_npz(tmp_path / "a.npz", arr_0=pixels)
    )
    pictures = open_set(given, size=16)
    assert (pictures.size, pictures.crop, pictures.filter) == ((16, 16), "none", "none")
    assert np.array_equal(pixels_of(pictures), [center_crop(p, 16) for p in pixels])
    assert (pictures.crop, pictures.filter) == ("center", "box+bicubic")


def test_nothing_is_said_of_a_crop_that_changed_nothing(tmp_path):
    pixels = noise(5, 16, 16, 3)
    path = write_npz(tmp_path / "a.npz", arr_0=pixels)
    same = open_set(path, size=16)
    assert np.array_equal(pixels_of(same), pixels) and same.filter == "none"
    assert same.hash == open_set(path).hash


def test_parts_of_a_source():
    whole, train, held = (open_set(f"shapes:40{part}") for part in ("", "@train", "@held"))
    assert (len(whole), len(train), len(held)) == (40, 36, 4)
    rows = {p.tobytes() for p in pixels_of(whole)}
    parts = [{p.tobytes() for p in pixels_of(s)} for s in (train, held)]
    assert parts[0] | parts[1] == rows and not parts[0] & parts[1]
    assert len(open_set("shapes:40@held", holdout=0.5)) == 20
    assert held.caption(0).startswith("a ") and held.classes[0] == "red circle"


def test_a_path_is_a_folder_or_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SAID", set())
    folder = write_pictures(tmp_path / "p", 10)
    assert len(open_set(folder)) == 10 and len(open_set(f"{folder}@held")) == 1
    data = [(folder / f"{i:03d}.png").read_bytes() for i in range(3)]
    pq.write_table(pa.table({"image": data}), tmp_path / "a.parquet")
    assert len(open_set(tmp_path / "a.parquet", size=8)) == 3
    assert len(open_set(f"{tmp_path}/*.parquet@train", size=8)) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"{folder} is taken as folder:{folder}",
        *(f"{tmp_path}/{n} is taken as parquet:{tmp_path}/{n}" for n in ("a.parquet", "*.parquet")),
    ]


def test_what_a_set_leaves_out_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SAID", set())
    folder = write_pictures(tmp_path / "p", 4)
    (folder / "notes.txt").write_text("no picture")
    data = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(data[: len(data) // 2])  # its header is whole
    pictures = open_set(f"folder:{folder}", size=8, skip_bad=True)
    assert sum(len(b) for b in pictures.batches()) == sum(len(b) for b in pictures.batches()) == 3
    left, broken = capsys.readouterr().err.splitlines()
    assert left == f"folder:{folder}: 1 file is left out: 1 .txt (notes.txt)"
    assert broken.startswith(f"folder:{folder}: skipped 1 that cannot be used: 001.png (the first:")


def test_labels_of_a_folder_and_of_an_npz(tmp_path):
    folder = open_set(write_pictures(tmp_path / "p", 6, ("cat", "dog")), size=8)
    assert folder.labels.tolist() == [0, 0, 0, 1, 1, 1] and folder.classes == ["cat", "dog"]
    labels = np.array([1, 0, 2])
    path = write_npz(tmp_path / "a.npz", arr_0=noise(3, 4, 4, 3), arr_1=labels)
    about = {"class_names": ["a", "b", "c"], "text": ["one", "two"], "first": 1}
    (tmp_path / "a.json").write_text(json.dumps(about))
    pictures = open_set(path)
    assert pictures.labels.tolist() == [1, 0, 2] and pictures.classes == ["a", "b", "c"]
    assert [pictures.caption(i) for i in range(3)] == ["two", "one", "two"]
    assert pictures.about == about
    plain = open_set(write_npz(tmp_path / "b.npz", arr_0=noise(3, 4, 4, 3), arr_1=np.ones(3)))
    assert plain.labels.tolist() == [-1] * 3 and plain.classes == [] and plain.caption(2) == ""


def test_statistics_alone_and_beside_pictures(tmp_path):
    mu, sigma = np.arange(3, dtype=np.float32), np.eye(3)
    path = write_npz(tmp_path / "r.npz", mu=mu, sigma=sigma, mu_s=mu[:2], sigma_s=np.ones((2, 2)))
    alone = open_set(path)
    assert list(alone.statistics) == ["mu", "sigma", "mu_s", "sigma_s"]
    assert alone.statistics["mu"].dtype == np.float64
    assert (len(alone), alone.size, alone.crop) == (0, None, "none")
    with pytest.raises(ValueError, match=r"precision needs pictures; .*r.npz holds only mu, sigma"):
        alone.require("precision")
    with pytest.raises(ValueError, match="needs pictures"):
        next(alone.batches())
    pixels = noise(4, 4, 4, 3)
    both = open_set(write_npz(tmp_path / "b.npz", mu=mu, sigma=sigma, arr_0=pixels))
    assert np.array_equal(pixels_of(both), pixels) and list(both.statistics) == ["mu", "sigma"]
    assert both.hash != open_set(write_npz(tmp_path / "p.npz", arr_0=pixels)).hash
    sigma[1, 1] = 2
    assert open_set(write_npz(tmp_path / "s.npz", mu=mu, sigma=sigma)).hash != alone.hash


# -- what is wrong


@pytest.fixture
def mixed(tmp_path):
    """Ten pictures, of which 3 has a broken header and 7 broken pixels."""
    folder = write_folder(tmp_path / "mixed", noise(10, 16, 16, 3))
    (folder / "003.png").write_text("not a picture")
    (folder / "007.png").write_bytes((folder / "007.png").read_bytes()[:300])
    return folder


def test_the_first_broken_picture_is_named(mixed):
    with pytest.raises(ValueError, match=r"003.png: .*; --skip-bad leaves such pictures out"):
        open_set(mixed)
    (mixed / "003.png").unlink()
    with pytest.raises(ValueError, match=r"cannot decode image .*007.png: .*; --skip-bad"):
        pixels_of(open_set(mixed))


@pytest.mark.parametrize("n", [1, 3, 64])
def test_broken_pictures_are_left_out_and_counted(mixed, n):
    pictures = open_set(mixed, skip_bad=True)
    assert len(pictures) == 9  # what a header does not show is not known yet
    assert np.array_equal(pixels_of(pictures, n), np.delete(noise(10, 16, 16, 3), [3, 7], 0))
    assert len(pictures) == 8 and set(pictures.skipped) == {"003.png", "007.png"}
    numbers = np.concatenate([rows.numbers for rows in pictures.numbered(n)])
    assert numbers.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]  # of the nine


def test_nothing_but_broken_pictures(tmp_path):
    folder = write_folder(tmp_path / "p", noise(2, 16, 16, 3))
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match="nothing is left to use"):
        open_set(folder, skip_bad=True)
    with pytest.raises(ValueError, match="nothing is left to use"):
        pixels_of(open_set(folder, size=8, skip_bad=True))


def test_pictures_of_several_sizes_need_one(tmp_path):
    folder = write_folder(tmp_path / "p", noise(4, 16, 16, 3))
    Image.new("RGB", (20, 18)).save(folder / "002.png")
    with pytest.raises(ValueError, match=r"002.png has 18 x 20 pixels, the first .* 16 x 16; --si"):
        pixels_of(open_set(folder))
    assert pixels_of(open_set(folder, size=12)).shape == (4, 12, 12, 3)


PIXELS = np.zeros((4, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": PIXELS}, "a.npz has no arr_0, .*; it has images"),
        ({}, "a.npz has no arr_0, .*; it has nothing"),
        ({"arr_0": PIXELS.astype(np.float32)}, r"got float32 \(4, 8, 8, 3\); pixels are whole num"),
        (
            {"arr_0": PIXELS.transpose(0, 3, 1, 2)},
            r"got uint8 \(4, 3, 8, 8\).*; channels come last",
        ),
        ({"arr_0": PIXELS[0]}, r"must be uint8 \(N, H, W, 3\), got uint8 \(8, 8, 3\)"),
        ({"arr_0": PIXELS[..., :1]}, r"got uint8 \(4, 8, 8, 1\)"),
        ({"arr_0": PIXELS[:0]}, r"got uint8 \(0, 8, 8, 3\)"),
        ({"arr_0": np.asfortranarray(PIXELS)}, r"\(4, 8, 8, 3\) in Fortran's order"),
        ({"arr_0": np.array([None, {}])}, r"got object \(2,\)"),
        ({"mu": np.zeros(3)}, r"mu and sigma must be \(D,\) and \(D, D\), got mu \(3,\)"),
        ({"sigma": np.eye(3)}, r"got sigma \(3, 3\)"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"got mu \(3,\), sigma \(4, 4\)"),
        ({"mu": np.zeros(3), "sigma": np.array([None])}, "sigma must hold numbers, got object"),
        (
            {"arr_0": PIXELS, "mu_s": np.zeros(3)},
            r"mu_s and sigma_s must be \(D,\) and \(D, D\), got mu_s \(3,\)",
        ),
    ],
)
def test_npz_files_that_hold_something_else(tmp_path, arrays, words):
    with pytest.raises(ValueError, match=words) as error:
        open_set(write_npz(tmp_path / "a.npz", **arrays))
    assert "\n" not in str(error.value)


def test_a_damaged_npz_is_named_with_the_place(tmp_path):
    path = write_npz(tmp_path / "a.npz", arr_0=noise(50, 8, 8, 3))
    data = bytearray(path.read_bytes())
    data[5000] ^= 1  # the checksum shows it at the end
    path.write_bytes(data)
    with pytest.raises(ValueError, match="a.npz: arr_0 is damaged: Bad CRC-32"):
        pixels_of(open_set(path), 16)
    path.write_bytes(data[:6000])
    with pytest.raises(ValueError, match="a.npz is not an .npz file"):
        open_set(path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("missing.npz", "missing.npz does not exist"),
        ("nothing", "'nothing' is no folder, no .npz file and no data source"),
        ("shapes:9@test", "shapes:9@test is not known"),
        ("emojis@held", "'emojis@held' is no folder"),
        ("testz/data", r"no data source \(there is no testz"),
    ],
)
def test_what_is_no_set(given, words):
    with pytest.raises(ValueError, match=words):
        open_set(given)


def test_bad_numbers(tmp_path):
    path = write_npz(tmp_path / "a.npz", arr_0=noise(3, 4, 4, 3))
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        open_set(path, size=0)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        next(open_set(path).batches(0))
    with pytest.raises(ValueError, match="a covariance needs at least 10 pictures, .* has 3"):
        open_set(path).require("a covariance", 10)
    (tmp_path / "b.npz").write_text("text")
    with pytest.raises(ValueError, match="b.npz is not an .npz file"):
        open_set(tmp_path / "b.npz")


def test_a_pass_that_is_broken_off_ends_its_threads(tmp_path):
    path = write_npz(tmp_path / "a.npz", arr_0=noise(100, 4, 4, 3))
    for name in (path, "shapes:50"):
        batches = open_set(name).batches(2)
        next(batches)
        batches.close()  # pyright: ignore[reportAttributeAccessIssue] - a generator
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
