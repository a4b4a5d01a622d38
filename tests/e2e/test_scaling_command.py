"""`smalti scaling`: a tiny ladder on shapes, resumed, extended, and its mistakes."""

import json
import shutil

import pytest
from PIL import Image

from builders import build
from processes import launch
from smalti.cli.main import main
from smalti.cli.reports import report_in
from smalti.modules import save_module
from smalti.tokenizers import kl_vae, multiscale_vqvae, vqgan

pytestmark = pytest.mark.usefixtures("float32", "few_resamples")

TRAIN = "--data.source shapes:48 --train.steps 6 --train.batch 8 --train.optim.warmup 0".split()
TRAIN += "--train.save-every 4 --train.precision fp32 --train.device cpu".split()
SMALL = [*"--model.layers 2 --model.heads 2 --model.dim 16".split(), *TRAIN]
LLAMAGEN = "--model.multiple-of 16 --model.dropout 0 --model.drop-path 0".split() + SMALL
SIZES = ["--sizes", "1", "2", "3", "4"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_module(build(vqgan.VQGAN, vqgan.tiny()), folder)
    return str(folder)


@pytest.fixture
def unplotted(monkeypatch):
    """No figures, which take a second each: they are looked at elsewhere."""
    monkeypatch.setattr("smalti.cli.plots.plot_scaling", lambda report, out: None)


@pytest.fixture(scope="module")
def ladder(tokenizer, few_resamples, tmp_path_factory):
    """The folder of a ladder of four sizes."""
    out = tmp_path_factory.mktemp("ladders") / "ladder"
    given = ["emoji_llamagen", "--tokenizer", tokenizer, "--out", str(out)]
    main(["scaling", *given, *SIZES, *LLAMAGEN])
    return out


def again(ladder, tokenizer, *more):
    given = ["emoji_llamagen", "--tokenizer", tokenizer, "--out", str(ladder)]
    main(["scaling", *given, *(more or SIZES), *LLAMAGEN])
    return json.loads((ladder / "scaling.json").read_text())


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["scaling", *map(str, arguments)])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1, lines
    return lines[0]


def test_what_a_ladder_leaves_behind(ladder):
    names = {"recipe.json", "data.parquet", "codes.arrow", "scaling.json", "scaling.png"}
    assert {p.name for p in ladder.iterdir()} == names | {f"layers-0{i}" for i in (1, 2, 3, 4)}
    report = json.loads((ladder / "scaling.json").read_text())
    sizes = report["sizes"]
    assert [(s["layers"], s["dim"], s["heads"]) for s in sizes] == [
        (i, 8 * i, i) for i in (1, 2, 3, 4)
    ]
    for name in ("parameters", "parameters_all", "operations_per_step"):
        assert sizes[0][name] < sizes[1][name] < sizes[2][name] < sizes[3][name]
    assert {s["tokens_per_step"] for s in sizes} == {8 * 16}
    assert [step for step, _ in sizes[0]["curve"]] == [1, 2, 3, 4, 5, 6]
    assert (report["model"], report["loss"]) == ("LlamaGen", "nats_per_token")
    assert (report["source"], report["images"], report["held_out_images"]) == ("shapes:48", 43, 5)
    assert set(report["laws"]) == {"parameters", "compute", "tokens"}
    for kinds in report["laws"].values():
        assert set(kinds) == {"power", "floor"}
    law = report["laws"]["parameters"]["power"]
    assert law["points"] == 4 and law["held_out"]["x"] == sizes[3]["parameters"]
    assert law["held_out"]["loss"] == sizes[3]["curve"][-1][1]
    with Image.open(ladder / "scaling.png") as image:
        assert image.size == (1200, 432)
    told = report_in(ladder / "scaling.json")
    assert told["kind"] == "report of scaling laws" and told["loss"] == "nats_per_token"
    assert told["numbers"]["4 layers"] == sizes[3]["curve"][-1][1]
    assert told["numbers"]["law over parameters"] == law["formula"]


@pytest.mark.slow
def test_what_is_finished_is_used_again(ladder, tokenizer, unplotted, capsys):
    before = {p: p.stat().st_mtime_ns for p in ladder.glob("layers-*/**/*") if p.is_file()}
    first = json.loads((ladder / "scaling.json").read_text())
    capsys.readouterr()
    assert again(ladder, tokenizer) == first
    assert {p: p.stat().st_mtime_ns for p in before} == before
    told = capsys.readouterr()
    assert "LlamaGen on shapes:48, nats_per_token" in told.err and "predicted" in told.err
    given = ["emoji_llamagen", "--tokenizer", tokenizer, "--out", str(ladder), "--json"]
    main(["scaling", *given, *SIZES, *LLAMAGEN])
    assert json.loads(capsys.readouterr().out) == first


@pytest.mark.slow
def test_a_ladder_that_was_cut_off_goes_on(ladder, tokenizer, unplotted, tmp_path, capsys):
    """As if killed in the third size after its checkpoint; that gives the same numbers."""
    first = json.loads((ladder / "scaling.json").read_text())
    kept = tmp_path / "kept"
    shutil.copytree(ladder, kept)
    shutil.rmtree(ladder / "layers-04")
    third = ladder / "layers-03"
    (third / "report.json").unlink()
    shutil.rmtree(third / "pipeline")
    shutil.rmtree(third / "checkpoints" / "step-00000006")
    (ladder / "scaling.json").unlink()
    report = again(ladder, tokenizer)
    assert "going on from step 4" in capsys.readouterr().err
    assert report == first
    weights = "pipeline/model/model.safetensors"
    for size in ("layers-03", "layers-04"):
        new, old = ((folder / size / weights).read_bytes() for folder in (ladder, kept))
        assert new == old


@pytest.mark.slow
def test_a_ladder_grows(ladder, tokenizer, unplotted):
    before = (ladder / "layers-01" / "metrics.jsonl").stat().st_mtime_ns
    report = again(ladder, tokenizer, "--sizes", "6", "2", "1", "4", "3", "1")
    assert [s["layers"] for s in report["sizes"]] == [1, 2, 3, 4, 6]
    assert (ladder / "layers-01" / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["emoji_var", "emoji_maskgit", "emoji_mar"])
def test_other_families(recipe, tmp_path):
    module, config, given, unit = {
        "emoji_var": (
            multiscale_vqvae.MultiScaleVQVAE,
            multiscale_vqvae.tiny(),
            ["--model.layers", "2", "--model.scales", *grids(multiscale_vqvae.tiny())],
            "nats_per_token",
        ),
        "emoji_maskgit": (
            vqgan.VQGAN,
            vqgan.tiny(),
            ["--model.layers", "2", "--model.ffn-dim", "64"],
            "nats_per_token_bound",
        ),
        "emoji_mar": (
            kl_vae.KLVAE,
            kl_vae.tiny(),
            "--model.encoder-layers 2 --model.decoder-layers 2 --model.head.width 32".split()
            + ["--sampling.steps", "4"],
            "diffusion_loss",
        ),
    }[recipe]
    save_module(build(module, config), tmp_path / "t")
    given += ["--model.heads", "2", "--model.dim", "16", *TRAIN, "--train.steps", "2"]
    out = tmp_path / "ladder"
    main(["scaling", recipe, "--tokenizer", str(tmp_path / "t"), "--out", str(out), *SIZES, *given])
    report = json.loads((out / "scaling.json").read_text())
    assert report["loss"] == unit and [s["layers"] for s in report["sizes"]] == [1, 2, 3, 4]
    counts = [s["parameters"] for s in report["sizes"]]
    assert 6 < counts[1] / counts[0] < 8.5 and 2.5 < counts[2] / counts[1] < 3.5
    assert (out / "scaling.png").stat().st_size > 10_000


def grids(config) -> list[str]:
    return [str(side) for grid in config.scales for side in grid]


def test_mistakes_are_one_line(ladder, tokenizer, tmp_path, capsys):
    out = tmp_path / "x"
    given = ["emoji_llamagen", "--tokenizer", tokenizer, "--out", out, *LLAMAGEN]
    assert "at least 4 different sizes, 3 for a power law and one for it to predict, got 3" in (
        refused(capsys, *given, "--sizes", "1", "2", "2", "3")
    )
    assert "at least 1, got 0" in refused(capsys, *given, "--sizes", "0", "1", "2", "3")
    assert "init must be empty" in refused(capsys, *given, *SIZES, "--init", tokenizer)
    assert "needs --tokenizer DIR" in refused(capsys, "emoji_llamagen", "--out", out, *SIZES)
    assert "VAR predicts scales of codes" in refused(
        capsys, "emoji_var", "--tokenizer", tokenizer, "--out", out, *SIZES
    )
    line = refused(capsys, "emoji_vqgan", "--out", out, *SIZES)
    assert line.startswith("smalti scaling: 'emoji_vqgan' is no recipe of smalti scaling")
    assert "did you mean 'emoji_var'" in refused(capsys, "emoji_va", "--out", out, *SIZES)
    assert "--sizes INT ... is missing" in refused(capsys, *given)
    assert not out.exists()
    other = ["emoji_llamagen", "--tokenizer", tokenizer, "--out", ladder, *LLAMAGEN]
    assert "holds a run of another recipe: train.seed was 0, now 1" in refused(
        capsys, *other, *SIZES, "--train.seed", "1"
    )


@pytest.mark.multi
def test_two_processes(ladder, tokenizer, tmp_path):
    """The same batches, so the same sizes and, within rounding, the same losses."""
    out = tmp_path / "ladder"
    given = ["emoji_llamagen", "--tokenizer", tokenizer, "--out", str(out)]
    launch(2, "scaling", *given, *SIZES, *LLAMAGEN)
    one, two = (json.loads((d / "scaling.json").read_text())["sizes"] for d in (ladder, out))
    for a, b in zip(one, two, strict=False):
        assert b["curve"][-1][1] == pytest.approx(a["curve"][-1][1], rel=1e-3)
        assert b | {"curve": 0} == a | {"curve": 0}


def test_help_lists_generators(capsys):
    main(["scaling", "--help"])
    told = capsys.readouterr().out
    assert "\n  emoji_maskgit " in told and "\n  emoji_vqgan " not in told and "--sizes" in told
