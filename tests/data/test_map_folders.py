"""Maps beside pictures in a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti.data.decode import numbers_of
from smalti.data.folder import Folder
from smalti.data.maps import MapsOf, alone, as_map, map_of, with_maps
from smalti.data.transforms import Transform


def write(root: Path, kinds: tuple[str, ...] = ("depth", "segmentation")) -> Path:
    """Three pictures of 12 x 10 pixels with their maps."""
    rng = np.random.default_rng(0)
    for folder in ("", *kinds):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(root / f"{i}.png")
        for kind in kinds:
            numbers = Image.fromarray(rng.integers(0, 9, (10, 12), np.uint8))
            numbers.save(root / kind / f"{i}.png")
    return root


def test_maps_are_no_classes_and_no_pictures(tmp_path):
    source = Folder(str(write(tmp_path)))
    assert (
        len(source) == 3 and source.classes == [] and set(source.maps) == {"depth", "segmentation"}
    )
    assert source.fingerprint() == Folder(str(write(tmp_path / "plain", ()))).fingerprint()


def test_maps_beside_classes(tmp_path):
    for name in ("cat", "dog"):
        write(tmp_path / name, ())
        (tmp_path / "depth" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (12, 10), i).save(tmp_path / "depth" / name / f"{i}.bmp")
    source = with_maps(Folder(str(tmp_path)), "depth")
    assert source.classes == ["cat", "dog"] and len(source) == 6
    assert np.asarray(map_of(source, 4, "depth")).max() == 1


def test_a_class_may_be_called_depth(tmp_path):
    write(tmp_path / "depth", ())
    write(tmp_path / "other" / "inside", ())
    assert Folder(str(tmp_path)).classes == ["depth", "other"]


def test_numbers_are_never_averaged(tmp_path):
    source = with_maps(Folder(str(write(tmp_path))), "segmentation")
    for size in (4, 10, 33):
        (view,) = Transform(size).views(map_of(source, 0, "segmentation"))
        assert view.shape == (3, size, size) and view.max() < 9
        assert (view == view[:1]).all()
    stored = np.asarray(Image.open(tmp_path / "segmentation" / "0.png"))
    assert np.array_equal(
        Transform(10).views(map_of(source, 0, "segmentation"))[0, 0], stored[:, 1:11]
    )
    mirrored = Transform(10, flip=True).views(map_of(source, 0, "segmentation"))
    assert np.array_equal(mirrored[1], mirrored[0][..., ::-1])


def test_the_maps_alone_are_pictures_with_the_same_keys(tmp_path):
    source = Folder(str(write(tmp_path)))
    maps = MapsOf(source, "depth")
    assert [maps.key(i) for i in range(3)] == [source.key(i) for i in range(3)]
    before = maps.fingerprint()
    assert before != source.fingerprint() and alone(source, "edges") is source
    Image.effect_noise((12, 10), 50).save(tmp_path / "depth" / "1.png")
    assert MapsOf(source, "depth").fingerprint() != before


@pytest.mark.parametrize("mode", ["L", "P", "LA", "PA", "RGB", "RGBA"])
def test_numbers_are_read_whatever_is_transparent(tmp_path, mode):
    numbers = np.array([[0, 7, 255]], np.uint8)
    image = Image.fromarray(numbers)
    if mode[0] == "P":
        image.putpalette(list(range(255, -1, -1)) * 3)
    image = image if image.mode == mode else image.convert(mode)
    if mode[-1] == "A":
        image.putalpha(Image.fromarray(numbers[:, ::-1].copy()))
    assert image.mode == mode and np.array_equal(np.asarray(numbers_of(image, "it")), numbers)
    if mode in ("LA", "RGBA"):
        image.save(tmp_path / "a.png")
        assert np.array_equal(np.asarray(as_map(tmp_path / "a.png", "segmentation")), numbers)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_a_map_stands_as_its_picture_does(tmp_path, ending):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated a quarter
    (tmp_path / "depth").mkdir()
    Image.new("RGB", (12, 10)).save(tmp_path / f"a.{ending}", exif=exif)
    Image.new("L", (10, 12)).save(tmp_path / "depth" / "a.png")
    source = with_maps(Folder(str(tmp_path)), "depth")
    assert map_of(source, 0, "depth").size == source[0].image.size == (10, 12)
    Image.new("L", (12, 10)).save(tmp_path / "depth" / "a.png")
    with pytest.raises(ValueError, match=f"a.png has 12 x 10 pixels, its picture a.{ending} 10 x"):
        with_maps(source, "depth")
    Image.new("L", (12, 10)).save(tmp_path / "depth" / "a.png", exif=exif)
    assert map_of(with_maps(source, "depth"), 0, "depth").size == (10, 12)


def test_what_is_no_map_is_refused(tmp_path):
    source = Folder(str(write(tmp_path / "a", ("depth",))))
    with pytest.raises(ValueError, match="has no maps: segmentation maps are files in a folder"):
        with_maps(source, "segmentation")
    Image.new("L", (13, 10)).save(tmp_path / "a" / "depth" / "2.png")
    with pytest.raises(
        ValueError, match=r"depth/2.png has 13 x 10 pixels, its picture 2.png 12 x 10"
    ):
        with_maps(Folder(str(tmp_path / "a")), "depth")
    (tmp_path / "a" / "depth" / "2.png").unlink()
    with pytest.raises(ValueError, match="1 of 3 pictures have no map in depth/, such as 2.png"):
        with_maps(Folder(str(tmp_path / "a")), "depth")
    with pytest.raises(ValueError, match="the map is in colours"):
        as_map(Image.new("RGB", (4, 4), (9, 8, 7)), "segmentation")
    with pytest.raises(ValueError, match=r"numbers must be in \[0, 256\), got 300"):
        numbers_of(Image.fromarray(np.full((2, 2), 300, np.uint16)), "it")
