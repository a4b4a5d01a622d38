import io
import sys
import types

import pytest
from PIL import Image

from smalti.data.source import open_source


class ClassLabel:
    names = ["cat", "dog"]


class Picture:  # stands for datasets.Image
    pass


Picture.__name__ = "Image"


class Rows:
    """What `datasets.Dataset` offers of itself: features, rows by number, columns by name."""

    def __init__(self, features, rows):
        self.features, self.rows, self._fingerprint = features, rows, "f00d"

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return [r[index] for r in self.rows] if isinstance(index, str) else self.rows[index]


def picture(colour):
    return Image.new("RGB", (4, 4), colour)


@pytest.fixture
def hub(monkeypatch):
    """Installs a `datasets` whose only dataset is what the test gives."""
    asked = []

    def install(rows):
        def load_dataset(name, split):
            asked.append((name, split))
            if isinstance(rows, Exception):
                raise rows
            return rows

        module = types.ModuleType("datasets")
        module.load_dataset = load_dataset
        monkeypatch.setitem(sys.modules, "datasets", module)
        return asked

    return install


def test_pictures_names_and_captions(hub):
    features = {"photo": Picture(), "label": ClassLabel(), "text": None}
    rows = [
        {"photo": picture("red"), "label": 1, "text": "a red dog"},
        {"photo": Image.new("RGBA", (4, 4)), "label": 0, "text": None},
    ]
    asked = hub(Rows(features, rows))
    source = open_source("hub:someone/pets")
    assert asked == [("someone/pets", "train")] and source.name == "hub:someone/pets"
    assert source.classes == ["cat", "dog"] and len(source) == 2
    image, label, caption = source[0]
    assert (image.getpixel((0, 0)), label, caption) == ((255, 0, 0), 1, "a red dog")
    assert source[1].image.getpixel((0, 0)) == (255, 255, 255)
    assert (source.label(1), source.caption(1), source.key(1)) == (0, "", "1")
    assert source.fingerprint() == open_source("hub:someone/pets").fingerprint()


def test_bytes_string_labels_and_a_split(hub):
    file = io.BytesIO()
    picture("blue").save(file, "PNG")
    rows = [{"image": {"bytes": file.getvalue()}, "label": "sea", "id": 7}, {"image": None}]
    rows[1] |= {"label": "air", "id": 8}
    asked = hub(Rows({"image": None, "label": None, "id": None}, rows))
    source = open_source("hub:a/b:test")
    assert asked == [("a/b", "test")]
    assert source.classes == ["air", "sea"] and source.key(0) == "7"
    assert source[0].image.getpixel((0, 0)) == (0, 0, 255) and source[0].label == 1
    with pytest.raises(ValueError, match="hub:a/b:test, row 1.*holds no image"):
        source[1]


def test_errors(hub, monkeypatch):
    hub(FileNotFoundError("no such dataset"))
    with pytest.raises(ValueError, match="cannot load hub:a/b: no such dataset"):
        open_source("hub:a/b")
    hub(Rows({"words": None}, []))
    with pytest.raises(ValueError, match="no image column; it has words"):
        open_source("hub:a/b")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r'pip install "smalti\[hub-data\]"'):
        open_source("hub:a/b")
