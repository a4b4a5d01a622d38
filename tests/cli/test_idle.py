"""A setting or a flag that would do nothing beside the others is refused in one line."""

from dataclasses import replace
from pathlib import Path

import pytest

from builders import build, pipeline
from smalti.cli.main import main
from smalti.cli.running import UNKNOWN, UNSEEN, check_idle
from smalti.cli.serving import Place, check_public
from smalti.cli.tune import Search
from smalti.config import read_json
from smalti.modules import save_module
from smalti.pipeline.sampling import Sampling
from smalti.recipes import RECIPES
from smalti.runs.idle import check_idle as check_recipe
from smalti.tokenizers import kl_vae

UNGUIDED = "guidance other than 1"


@pytest.fixture(scope="module")
def pipes():
    return {name: pipeline(name) for name in ("llamagen", "var", "maskgit")}


@pytest.mark.parametrize(
    ("name", "flag", "given", "need"),
    [
        ("llamagen", "window", {"window": 4}, "parallel"),
        ("var", "prune-layers", {"prune_layers": 0.25}, "prune"),
        ("llamagen", "power", {"power": 2.0, "guidance": 2.0}, "schedule power-cosine"),
        ("llamagen", "start", {"start": 0.5, "guidance": 2.0}, "schedule interval"),
        ("llamagen", "stop", {"stop": 0.5, "schedule": "linear"}, "schedule interval"),
        ("var", "guidance", {"guidance": 2.0, "schedule": "list", "scales": (3.0,)}, "another"),
        ("var", "schedule", {"schedule": "linear"}, UNGUIDED),
        ("maskgit", "momentum", {"momentum": -0.5, "guidance": 1.0}, UNGUIDED),
        ("maskgit", "rescale", {"rescale": 2.0}, UNGUIDED),
        ("maskgit", "guidance-parallel", {"guidance_parallel": 0.0}, UNGUIDED),
        ("llamagen", "known-first", {"known_first": True}, "codes that are known"),
    ],
)
def test_what_does_nothing_beside_the_others(pipes, name, flag, given, need):
    pipe = pipes[name]
    pipe.sampling = Sampling.of(guidance=2.0) if flag == "stop" else Sampling()
    with pytest.raises(ValueError, match=f"^--{flag} does nothing without {need}"):
        check_idle(pipe, given)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("llamagen", {"window": 4, "parallel": "exact"}),
        ("llamagen", {"window": 0, "start": 0.0}),  # as it is anyway
        ("var", {"prune": (0.5,), "prune_layers": 0.25}),
        ("llamagen", {"power": 2.0, "schedule": "power-cosine", "guidance": 2.0}),
        ("llamagen", {"stop": 0.5, "schedule": "interval", "guidance": 2.0}),
        ("var", {"schedule": "list", "scales": (3.0,)}),
        ("maskgit", {"momentum": -0.5, "guidance": 3.0}),
        ("var", {"size": "24x8"}),
    ],
)
def test_what_does_something_passes(pipes, name, given):
    pipes[name].sampling = Sampling()
    check_idle(pipes[name], given)


def test_what_is_not_given_is_the_pipelines_own(pipes):
    """A pipeline keeps `window` for calls that draw ahead; one that does not may leave it."""
    pipe = pipes["llamagen"]
    pipe.sampling = Sampling.of(parallel="exact", window=4, guidance=2.0)
    check_idle(pipe, {"parallel": "off", "schedule": "linear"})
    check_idle(pipe, {"window": 2})
    with pytest.raises(ValueError, match="--window does nothing without parallel"):
        check_idle(pipe, {"window": 2, "parallel": "off"})
    with pytest.raises(ValueError, match="--window does nothing without parallel"):
        check_idle(pipe, {"window": 2}, others={"parallel": "off"})  # of a picture drawn again
    check_idle(pipe, {}, negative="rain")
    with pytest.raises(ValueError, match=f"--negative does nothing without {UNGUIDED}"):
        check_idle(pipe, {"guidance": 1.0}, negative="rain")
    check_idle(pipe, {"known_first": True}, lacks=UNSEEN)  # what is edited is known
    with pytest.raises(ValueError, match="guidance_pictures 2.0 is for models that read text"):
        check_idle(pipe, {"guidance_pictures": 2.0}, lacks=UNKNOWN)


@pytest.fixture(scope="module")
def folder(pipes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipe")
    pipes["llamagen"].save_pretrained(folder)
    words = ("encode", "shapes:6", "--tokenizer", folder, "--no-flip", "--out", folder / "c.arrow")
    main([str(word) for word in words])
    return str(folder)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("emoji_llamagen", {"init": "PIPE", "model.dim": 8}, "model.dim does nothing with --init"),
        ("emoji_llamagen", {"init": "PIPE", "sampling.top_k": 7}, "sampling.top_k does nothing"),
        ("emoji_llamagen", {"init": "PIPE", "model.heads": None, "model.dropout": 0.3}, ""),
        ("emoji_llamagen", {"init": "PIPE", "data.source": "shapes"}, ""),
        ("emoji_llamagen", {"init": "nowhere", "model.dim": 8}, ""),  # the run says what is wrong
        ("emoji_llamagen", {"codes": "CODES", "data.flip": True}, "data.flip does nothing with "),
        ("emoji_llamagen", {"codes": "CODES", "data.source": "emoji"}, ""),  # another spelling
        ("emoji_llamagen", {"codes": "CODES", "data.crop": "center"}, ""),  # as the file has it
        ("emoji_llamagen", {"codes": "nowhere", "data.crop": "ten"}, ""),
        ("emoji_llamagen", {"lora.alpha": 2.0}, "lora.alpha does nothing without lora.rank"),
        ("emoji_llamagen", {"data.shift": 2}, "data.shift does nothing but for tokenizers"),
        ("rar_b", {"data.flip": False}, "data.flip does nothing with data.crop ten"),
        ("emoji_vqgan", {"init": "PIPE", "model.vocab": 9}, "model.vocab does nothing with --init"),
        ("emoji_vqgan", {"objective.gan_weight": 8}, ""),
        ("shapes_chameleon", {"words": "w", "vocab": 300}, "vocab does nothing with --words w"),
    ],
)
def test_fields_of_a_recipe(folder, name, given, words):
    """A field that says what is so anyway, None here, is no mistake."""
    recipe, given = RECIPES[name](), dict(given)
    for field in [field for field in given if "." not in field]:
        there = {"PIPE": folder, "CODES": f"{folder}/c.arrow"}
        object.__setattr__(recipe, field, there.get(given[field], given[field]))
    if "sampling.top_k" in given:
        object.__setattr__(recipe, "sampling", recipe.sampling.changed(top_k=7))
    if "model.heads" in given:
        heads = read_json(Path(folder) / "model" / "config.json")["config"]["heads"]
        object.__setattr__(recipe, "model", replace(recipe.model, heads=heads, dim=4 * heads))
    if not words:
        check_recipe(recipe, set(given))
        return
    with pytest.raises(ValueError, match=words):
        check_recipe(recipe, set(given))


def test_what_only_generators_that_go_on_take_of_their_recipe(tmp_path):
    save_module(build(kl_vae.KLVAE, kl_vae.tiny()), tmp_path / "t")
    recipe = RECIPES["emoji_klvae"]()
    model = replace(recipe.model, dropout=0.3)
    recipe = replace(recipe, init=str(tmp_path / "t"), model=model)
    with pytest.raises(ValueError, match="model.dropout does nothing with --init .* has 0.0"):
        check_recipe(recipe, {"model.dropout"})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sample PIPE --window 4", "--window does nothing without parallel"),
        ("sample PIPE --window 4 --npz x.npz --count 2", "--window does nothing without parallel"),
        (
            "edit PIPE --image x.png --schedule linear",
            f"--schedule does nothing without {UNGUIDED}",
        ),
        ("eval PIPE --reference shapes:9 --prune-layers 0.1", "prune_layers 0.1 is for models of"),
        ("eval PIPE --reference shapes:9 --known-first True", "--known-first does nothing"),
        ("eval shapes:9 --level 1 --metrics fid", "--level is for fwd, which is not asked"),
        ("eval shapes:9 --inception x", "--inception is for fid, sfid, inception_score"),
        (
            "eval shapes:9 --half --metrics fid",
            "--half is for precision, recall, kid, which is not",
        ),
        ("eval shapes:9 --lpips-weights x", "--lpips-weights is for --lpips"),
        ("eval shapes:9 --templates {} --metrics retrieval", "--templates is for zero_shot, which"),
        ("eval shapes:9 --dtype float32", "--dtype is for a pipeline that draws or answers"),
        ("tune PIPE --level 1 --metric fid", "--level is for fwd, got metric fid"),
        ("tune PIPE --inception x", "got metric fwd"),
        ("bench encode --dtype bfloat16", "tokenizers stay in float32: --dtype is for draw and"),
        (
            "train emoji_llamagen --out r --lora.alpha 2",
            "lora.alpha does nothing without lora.rank",
        ),
    ],
)
def test_the_command_says_it_in_one_line(pipes, tmp_path, monkeypatch, capsys, line, words):
    monkeypatch.chdir(tmp_path)
    pipes["llamagen"].sampling = Sampling()
    monkeypatch.setattr("smalti.loading.load", lambda *_: pipes["llamagen"])
    monkeypatch.setattr("smalti.cli.subjects._opened", opened_as(pipes["llamagen"]))
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    (said,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and words in said and not list(tmp_path.iterdir())


def opened_as(pipe):
    return lambda subject, *_: (pipe, pipe.tokenizer) if subject == "PIPE" else (None, None)


def test_an_address_that_is_not_public():
    check_public(Place(host="0.0.0.0", insecure=True))
    with pytest.raises(ValueError, match="--insecure does nothing at 127.0.0.1"):
        check_public(Place(insecure=True))
    with pytest.raises(ValueError, match="--insecure does nothing with --keys"):
        check_public(Place(host="0.0.0.0", insecure=True, keys="k"))


def test_what_a_search_is_asked_for():
    assert Search(level=1).level == 1 and Search(metric="fid", inception="x").metric == "fid"
