import io
import socket
import sys
import types

import pytest
from PIL import Image

from smalti import progress
from smalti.data.open import open_source


class ClassLabel:
    dtype, names = "int64", ["cat", "dog"]


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


def test_usual_columns_and_those_that_are_asked_for(hub, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SAID", set())
    text = types.SimpleNamespace(dtype="string")
    features = {"mask": Picture(), "image": Picture(), "fine_label": ClassLabel(), "prompt": text}
    row = {"mask": picture("blue"), "image": picture("red"), "fine_label": 1, "prompt": "a dog"}
    asked = hub(Rows(features | {"long": text}, [row | {"long": "a long dog"}]))
    source = open_source("hub:a/b")
    assert (source.classes, source.label(0), source.caption(0)) == (["cat", "dog"], 1, "a dog")
    assert source[0].image.getpixel((0, 0)) == (255, 0, 0)
    assert "labels are column 'fine_label', captions 'prompt'; not used: mask, long (" in (
        capsys.readouterr().err
    )
    chosen = open_source("hub:a/b:test?image=mask&label=&text=long")
    assert (
        asked[-1] == ("a/b", "test") and chosen.name == "hub:a/b:test?image=mask&label=&text=long"
    )
    assert (chosen.classes, chosen.caption(0)) == ([], "a long dog")
    assert chosen[0].image.getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(ValueError, match="a split of the hub is named by hub:a/b:test"):
        open_source("hub:a/b?split=test")


@pytest.mark.parametrize("name", ["caption", "captions"])
def test_of_several_captions_the_first_is_read(hub, monkeypatch, capsys, name):
    monkeypatch.setattr(progress, "_SAID", set())
    text = types.SimpleNamespace(dtype="string")
    captions = [["a dog", "a pet"], [], None, "a cat"]
    rows = [{"image": picture("red"), name: c} for c in captions]
    for feature in ([text], types.SimpleNamespace(feature=text, length=-1)):  # before 4.0 and since
        hub(Rows({"image": Picture(), name: feature}, rows))
        source = open_source("hub:a/b")
        assert [source.caption(i) for i in range(4)] == ["a dog", "", "", "a cat"]
    assert f"of the captions in column '{name}' the first is read" in capsys.readouterr().err


def test_a_list_is_no_label(hub):
    lists = types.SimpleNamespace(feature=ClassLabel(), length=-1)
    rows = [{"image": picture("red"), "labels": [0, 1], "category": 1}]
    hub(Rows({"image": Picture(), "labels": lists, "category": ClassLabel()}, rows))
    assert open_source("hub:a/b").label(0) == 1


def test_a_hub_that_cannot_be_asked(hub, tmp_path, monkeypatch):
    error = ConnectionError("no route\nmore lines")
    error.__cause__ = socket.gaierror(-2, "Name or service not known")
    hub(error)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="load hub:a/b: the hub could not be asked .*no route more"
    ):
        open_source("hub:a/b")
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"lines\); a/b exists here: folder:a/b reads it$"):
        open_source("hub:a/b")
