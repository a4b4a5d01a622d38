"""The list of models, released ones by name, and what is said of names that are none."""

import json
import subprocess
import sys

import pytest

import smalti
from builders import pipeline
from smalti.cli.listing import counted, stored
from smalti.cli.main import main
from smalti.interop import starters
from smalti.interop.hub import find, find_tokenizer
from smalti.interop.listing import list_models, of_release
from smalti.interop.projects import PROJECTS
from smalti.interop.releases import TERMS, releases


def test_every_published_file_has_a_name_and_every_name_a_file():
    files = {r.file for r in releases().values() if r.file}
    for project in PROJECTS.values():
        for repo, (tokenizers, models, home, *_) in project.repositories.items():
            assert {f"{repo}/{model}" for model in models} <= files
            if not home and len(tokenizers) > 1 or not models:
                assert f"{repo}/{tokenizers[0]}" in files
    for name, release in releases().items():
        if release.file:
            found = find(name) if release.pixels else find_tokenizer(name)
            assert found is not None and found.project is PROJECTS[release.project], name
            assert release.file == f"{found.repo}/{found.model or found.tokenizer}"
        else:
            assert release.command.startswith(f"smalti convert {release.project} --")
        assert release.project in PROJECTS and name == name.lower() and "/" not in name
    assert TERMS.keys() <= PROJECTS.keys()


def test_a_row_says_what_is_known():
    (model,) = list_models("llamagen-b-384")
    assert (model.system, model.task, model.size) == ("llamagen", "class-to-image", "384x384")
    assert (model.fid, model.fid_said, model.data) == (6.09, "README", "ImageNet")
    assert (model.parameters, model.tokenizer_parameters) == (110_888_448, 71_883_403)
    assert model.disk == 4 * (110_888_448 + 71_883_403)
    assert model.memory == 2 * 110_888_448 + 4 * 71_883_403
    (hart,) = list_models("hart-1024")
    assert hart.fid is None and hart.needs == "text" and hart.data == ""  # not known is empty
    (recipe,) = list_models("llamagen_7b")
    assert (recipe.kind, recipe.source) == ("recipe", "smalti train llamagen_7b")
    none = of_release(replace_release(fid="none"))
    assert none.fid is None and none.fid_said == ""


def test_licences_and_sizes_are_those_of_the_project_and_the_recipe():
    listed = {model.name: model for model in list_models(pretrained=True)}
    for name, licence in (
        ("anole-7b", "Chameleon Research License"),
        ("janus-pro-1b", "DeepSeek Model License (weights)"),
        ("metamorph-8b", "CC BY-NC"),
        ("show-o-256", "Apache-2.0 (code)"),
        ("tatitok-vae-sl128", "for research only (weights)"),
    ):
        assert licence in listed[name].licence, name
    bare = {r.project for r in releases().values()} - {p for p, t in TERMS.items() if t.licence}
    assert bare == {"dnd"}  # which has no licence file
    assert (listed["titok-vae-bl128"].fid, listed["titok-vae-bl128"].size) == (0.84, "256x256")
    assert (listed["tatitok-tokenizer-bl32"].fid, listed["tatitok-vae-bl64"].needs) == (
        3.95,
        "text",
    )
    assert listed["taming-sflckr"].task == "map-to-image"


def replace_release(**changes):
    return releases()["llamagen-b-256"]._replace(**changes)


def test_patterns():
    assert [m.name for m in list_models("RAR-?-256")] == ["rar-b-256", "rar-l-256"]
    assert {m.kind for m in list_models("llamagen*")} == {"released", "recipe"}
    assert {m.kind for m in list_models("llamagen", pretrained=True)} == {"released"}
    assert len({m.name for m in list_models()}) == len(list_models())
    with pytest.raises(ValueError, match="like 'lamagenb-256'; the nearest are llamagen-b-256, "):
        list_models("lamagenb-256")


def test_starters_are_folders_with_a_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(starters, "ROOT", tmp_path)
    assert starters.cards() == {}
    pipe, folder = pipeline("llamagen"), tmp_path / "tiny"
    pipe.save_pretrained(folder)
    card = dict.fromkeys(starters.CARD, "") | {"name": "smalti/tiny", "results": {"fid": 12.5}}
    (folder / "card.json").write_text(json.dumps(card))
    (model, *_) = list_models("smalti/*")
    assert (model.kind, model.fid, model.fid_said) == ("starter", 12.5, "card")
    assert smalti.load("smalti/tiny", "cpu").fingerprint == pipe.fingerprint
    assert smalti.load_tokenizer("smalti/tiny", "cpu").spec == pipe.tokenizer.spec
    main(["sample", "smalti/tiny", "--n", "1", "--out", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("card", "words"), [("{}", "is damaged: it has no name, system, "), ("{", "is not valid JSON")]
)
def test_a_damaged_card_hides_no_other_model(tmp_path, monkeypatch, capsys, card, words):
    monkeypatch.setattr(starters, "ROOT", tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "card.json").write_text(card)
    assert "llamagen-b-256" in {m.name for m in list_models()}
    with pytest.raises(ValueError, match="the nearest of smalti models: llamagen-b-256, "):
        smalti.load("llamagen-b-265")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tiny is not listed: ") and words in line


def test_the_command(capsys):
    main(["models", "var-*"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["NAME", "SYSTEM", "TASK", "SIZE"] and "LICENCE" in head
    assert lines[0].startswith("var-d16-256  ") and "3.55 (README)" in lines[0]
    main(["models", "var-d16*", "--json"])
    (told,) = json.loads(capsys.readouterr().out)
    assert told["source"] == "FoundationVision/var/var_d16.pth" and told["disk"] > told["memory"]
    with pytest.raises(SystemExit) as stop:
        main(["models", "vardd16"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_the_list_needs_no_torch():
    code = "import sys, smalti; smalti.list_models('*'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llamagen-b-265", "neither a folder .*; the nearest of smalti models: llamagen-b-256, "),
        ("mar-b-256", r"mar-b-256 is not fetched by name: get its files, then smalti convert mar "),
        ("rar_b", "rar_b is neither .*; it is a recipe: smalti train rar_b$"),
    ],
)
def test_names_that_cannot_be_loaded(name, words, capsys):
    with pytest.raises(ValueError, match=words):
        smalti.load(name)
    with pytest.raises(SystemExit) as stop:
        main(["info", name])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_released_file_that_needs_an_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("llamagen-t2i-256", releases()["llamagen-t2i-256"].file):
        with pytest.raises(ValueError, match=r'^llamagen-t2i-256 needs `pip install "smalti\[text'):
            smalti.load(name)
    assert find("llamagen-b-256") is not None


def test_numbers_as_people_say_them():
    assert [counted(n) for n in (None, 12, 1536, 110_888_448, 3_096_659_200)] == [
        *("", "12", "1.5 k", "111 M", "3.1 B"),
    ]
    assert [stored(n) for n in (444_000_000, 9_960_000_000)] == ["444 MB", "10 GB"]
