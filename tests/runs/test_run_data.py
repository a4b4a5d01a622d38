"""What a run notes of its data, and how a difference is told."""

import json
import re

import pytest

from builders import build
from small_systems import write_pictures
from smalti.data.drawn_shapes import open_shapes
from smalti.data.folder import Folder
from smalti.data.token_cache import TokenCache
from smalti.data.transforms import Transform
from smalti.modules import save_module
from smalti.recipes.base import DataConfig, GeneratorRecipe
from smalti.runs.data import changes, check_data, marks, note, warn_of_changes
from smalti.runs.encode import encode
from smalti.runs.image_coder import Coder
from smalti.tokenizers import vqgan


@pytest.fixture
def photos(tmp_path):
    return write_pictures(tmp_path / "photos", 8, ("cat", "dog"))


def test_what_has_changed_is_told_by_name(photos, tmp_path):
    note(tmp_path, Folder(str(photos)))
    assert changes(tmp_path, Folder(str(photos))) == ""
    write_pictures(tmp_path / "more", 8, ("cat", "dog"))
    (tmp_path / "more" / "cat" / "000.png").rename(photos / "cat" / "new.png")
    (photos / "dog" / "001.png").unlink()
    for i in (2, 4):
        path = photos / "cat" / f"00{i}.png"
        path.write_bytes(path.read_bytes() + b"\0")
    (photos / "cat" / "006.png").rename(photos / "dog" / "006.png")
    told = changes(tmp_path, Folder(str(photos)))
    assert told == (
        "2 added (cat/new.png, dog/006.png), 2 removed (cat/006.png, dog/001.png), "
        "2 changed (cat/002.png, cat/004.png)"
    )


def test_another_place_is_no_change_and_another_class_is_one(photos, tmp_path):
    note(tmp_path, Folder(str(photos)))
    photos.rename(tmp_path / "elsewhere")
    there = tmp_path / "elsewhere"
    assert changes(tmp_path, Folder(str(there))) == ""
    (there / "dog").rename(there / "wolf")
    assert changes(tmp_path, Folder(str(there))).endswith(
        "; its classes were ['cat', 'dog'], now ['cat', 'wolf']".replace("; ", ", ", 1)
    )


def test_a_new_class_before_the_others_changes_no_mark(photos):
    before = marks(Folder(str(photos)))
    write_pictures(photos, 1, ("ant",))
    after = marks(Folder(str(photos)))
    assert {key: after[key] for key in before} == before and len(after) == len(before) + 1


def test_many_are_counted_and_some_named(tmp_path):
    note(tmp_path, open_shapes("4"))
    assert changes(tmp_path, open_shapes("9")) == "5 added (4, 5, 6, ...)"


def test_a_run_of_classes_never_goes_on_with_others(photos, tmp_path, capsys):
    run, data = tmp_path / "run", DataConfig(on_changed="go-on")
    run.mkdir()
    check_data(run, Folder(str(photos)), data, classes=True)  # a new run
    (run / "recipe.json").write_text("{}")
    check_data(run, Folder(str(photos)), data, classes=True)
    assert "begun by an earlier smalti, which did not note its data" in capsys.readouterr().err
    note(run, Folder(str(photos)))
    write_pictures(photos, 1, ("ant",))
    with pytest.raises(ValueError, match="cannot go on with other classes"):
        check_data(run, Folder(str(photos)), data, classes=True)
    with pytest.raises(ValueError, match=r"1 added \(ant/000.png\), .*--data.on-changed go-on$"):
        check_data(run, Folder(str(photos)), DataConfig(), classes=False)
    check_data(run, Folder(str(photos)), data, classes=False)
    assert "going on with what is there now" in capsys.readouterr().err


def test_a_finished_run_says_what_is_another_by_now(tmp_path, capsys):
    names, run = ("init", "tokenizer", "codes"), tmp_path / "run"
    places = {name: tmp_path / name for name in names}
    for folder in (run, places["init"]):
        folder.mkdir()
    tokenizer = build(vqgan.VQGAN, vqgan.tiny())
    save_module(tokenizer, places["tokenizer"])
    encode(Coder(open_shapes("3"), tokenizer, Transform(16)), places["codes"])
    (places["init"] / "pipeline.json").write_text('{"fingerprint": "now-init"}')
    cache = TokenCache(places["codes"])
    now = {"init": "now-init", "tokenizer": cache.tokenizer, "codes": cache.fingerprint()}
    given = {name: str(place) for name, place in places.items()}
    recipe = GeneratorRecipe(data=DataConfig("shapes:3"), **given)
    for changed in (None, *names):
        noted = now | ({} if changed is None else {changed: "then"})
        noted["fingerprint"] = noted.pop("init")  # its name in such a file
        (run / "init.json").write_text(json.dumps(noted))
        capsys.readouterr()
        warn_of_changes(run, recipe)
        told = capsys.readouterr().err
        if changed is None:
            assert told == ""
            continue
        words = f"run is finished; it began with {changed} then, {places[changed]} is "
        assert re.sub(r"\s+", " ", told).endswith(f"{words}{now[changed]} by now ")
