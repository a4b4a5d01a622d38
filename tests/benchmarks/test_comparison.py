"""The comparison page: the whole way on small systems, the counts, and each measure by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from smalti.cli import demo
from smalti.config import read_json
from smalti.data.token_cache import TokenCache
from smalti.heads.diffusion import DiffusionConfig
from smalti.recipes import DEMOS
from smalti.recipes.fluid import emoji_fluid
from smalti.recipes.ibq import emoji_fsq, emoji_ibq, emoji_ibq_ar
from smalti.recipes.infinity import emoji_bsq, emoji_infinity
from smalti.recipes.llamagen import emoji_llamagen, emoji_vqgan
from smalti.recipes.magvit2 import emoji_lfq, emoji_magvit2
from smalti.recipes.mar import emoji_klvae, emoji_mar
from smalti.recipes.maskbit import emoji_maskbit
from smalti.recipes.maskgit import emoji_maskgit
from smalti.recipes.rar import emoji_rar
from smalti.recipes.var import emoji_msvqvae, emoji_var
from smalti.tokenizers.quantize.multiscale import pyramid

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import comparison
    import comparison_bits
    import comparison_edit
    import comparison_page


def small(recipe, **model):
    """The recipe with a small model that trains for four steps in a quick demo."""

    def made():
        full = recipe()
        train = replace(full.train, batch=4, precision="fp32", device="cpu")
        made = replace(full, model=replace(full.model, **model), train=train)
        sampling = getattr(made, "sampling", None)
        if sampling is not None and (steps := sampling.reveal.steps):
            made = replace(made, sampling=sampling.changed(steps=steps // 4))
        return made

    made.__name__ = "small_" + recipe.__name__.removeprefix("emoji_")
    return made


vqgan = small(emoji_vqgan, size=(16, 16), channels=8, latent=8, vocab=32, blocks=1, patch=2)
msvqvae = small(emoji_msvqvae, size=(16, 16), channels=8, vocab=32, scales=pyramid(1, 2, 4))
klvae = small(emoji_klvae, size=(16, 16), channels=8, latent=4, blocks=1, patch=2)
THIN = {"size": (16, 16), "channels": 8, "patch": 2}  # all of 5 bits a code but the last
lfq = small(emoji_lfq, bits=5, **THIN)
ibq = small(emoji_ibq, latent=8, vocab=32, **THIN)
fsq = small(emoji_fsq, latent=8, levels=(4, 8), **THIN)
bsq = small(emoji_bsq, bits=7, scales=pyramid(1, 2, 4), **THIN)
fewer = small(comparison_bits.emoji_bsq_8bits, bits=5, scales=pyramid(1, 2, 4), **THIN)
ALIKE = (vqgan, ibq, fsq, lfq, msvqvae, fewer, bsq)


def of(name, tokenizer, generator):
    """The demo of a system with other recipes."""
    return replace(DEMOS[name], tokenizer=tokenizer, generator=generator)


WIDE = {"layers": 1, "heads": 2, "dim": 16}
HEAD = {"head": DiffusionConfig(depth=1, width=16)}
LIKELY = ("llamagen", "rar", "var", "magvit2", "ibq", "infinity")
BOUNDED = ("maskgit", "maskbit")
SMALL = {
    "llamagen": (vqgan, small(emoji_llamagen, multiple_of=16, **WIDE)),
    "rar": (vqgan, small(emoji_rar, ffn_dim=32, **WIDE)),
    "var": (msvqvae, small(emoji_var, scales=pyramid(1, 2, 4), **WIDE)),
    "maskgit": (vqgan, small(emoji_maskgit, ffn_dim=32, **WIDE)),
    "mar": (klvae, small(emoji_mar, encoder_layers=1, decoder_layers=1, heads=2, dim=16, **HEAD)),
    "fluid": (klvae, small(emoji_fluid, ffn_dim=32, **WIDE, **HEAD)),
    "magvit2": (
        lfq,
        small(emoji_magvit2, channels=5, groups=(2, 3), multiple_of=16, **WIDE),
    ),
    "ibq": (ibq, small(emoji_ibq_ar, multiple_of=16, **WIDE)),
    "maskbit": (lfq, small(emoji_maskbit, channels=5, groups=5, ffn_dim=32, **WIDE)),
    "infinity": (
        bsq,
        small(emoji_infinity, bits=7, scales=pyramid(1, 2, 4), multiple_of=16, **WIDE),
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A quick run of small systems: its folder, and the JSON lines."""
    folder, lines = tmp_path_factory.mktemp("comparison"), []
    with pytest.MonkeyPatch.context() as patch:
        for name, pair in SMALL.items():
            patch.setitem(DEMOS, name, of(name, *pair))
        patch.setattr(demo, "FEWEST", 4)
        patch.setattr(demo, "QUICK", 0.0)
        patch.setattr("smalti.devices.named.fast_bf16", lambda device: False)
        patch.setattr(comparison, "check_equal", lambda: None)
        kinds = zip(comparison_bits.KINDS, ALIKE, strict=True)
        small_kinds = [
            replace(kind, recipe=recipe, yardstick=kind.yardstick.replace("emoji", "small"))
            for kind, recipe in kinds
        ]
        patch.setattr(comparison_bits, "KINDS", small_kinds)
        patch.setattr(comparison, "report", lines.append)
        words = ["--quick", "--data", "shapes:60", "--out", folder / "runs", "--docs", folder]
        comparison.main([str(word) for word in words])
    return folder, {line["case"]: line for line in lines}


@pytest.mark.slow  # ten systems are trained
def test_the_page_holds_the_numbers_of_the_runs(made):
    folder, lines = made
    text = (folder / "comparison.md").read_text()
    assert "nan" not in text and "None" not in text
    for name in SMALL:
        report = read_json(folder / "runs" / SMALL[name][1].__name__ / "report.json")
        line = lines[name]
        if name in LIKELY:
            assert line["bits_per_image"] == report["held_out_bits_per_image"]
            assert f"| **{report['held_out_bits_per_image']:.1f}** |" in text
        elif name in BOUNDED:
            assert line["bits_per_image"] == report["held_out_bits_per_image_bound"]
            assert f"| **≤ {report['held_out_bits_per_image_bound']:.1f}** |" in text
        else:
            assert line["bits_per_image"] is None
            assert f"| {report['held_out_diffusion_loss']:.4f} |" in text
        assert f"{line['parameters']:,}" in text and line["parameters"] > 1000
        assert line["steps"] == report["steps"] == 4
        assert line["operations"] == 4 * line["operations_per_step"]
    psnr = read_json(folder / "runs" / "small_vqgan" / "report.json")["held_out_psnr"]
    assert f"**{psnr:.2f} dB** | **{psnr:.2f} dB**" in text  # one tokenizer for three systems
    assert text.count(f"**{psnr:.2f} dB**") >= 3
    assert [lines[n]["passes"] for n in LIKELY] == [16, 16, 3, 16, 16, 3]
    assert [lines[n]["passes"] for n in SMALL if n not in LIKELY] == [
        SMALL[n][1]().sampling.reveal.steps for n in SMALL if n not in LIKELY
    ]
    assert [lines[n]["codes"] for n in LIKELY] == [16, 16, 21, 16, 16, 21]
    assert [lines[n]["raw_bits"] for n in LIKELY] == [80, 80, 105, 80, 80, 147]
    learned = lines["infinity"]["text_parameters"]  # the encoder of texts, and no other has one
    assert learned > 1000 and f"with it, {learned:,} parameters" in " ".join(text.split())
    assert all(lines[n]["text_parameters"] is None for n in SMALL if n != "infinity")
    assert list(lines["rar"]["bits_by_order"]) == [
        *("row-major", "spiral-in", "spiral-out", "z-curve", "subsample", "alternate", "random")
    ]
    assert all(f"{v:.3f}" in text for v in lines["rar"]["bits_by_order"].values())
    assert not lines["llamagen"]["bits_by_order"] and not lines["var"]["bits_by_order"]


@pytest.mark.slow  # ten systems are trained
def test_every_picture_of_the_page_is_there(made):
    folder, _ = made
    text = (folder / "comparison.md").read_text()
    named = [part.split(")")[0] for part in text.split("](")[1:]]
    sizes = {}
    for name in named:
        with Image.open(folder / name) as image:
            sizes[name] = image.size
    assert sizes == {
        "comparison-scales.png": (8 * 34 + 2, 3 * 34 + 2),
        "comparison-llamagen.png": (8 * 34 + 2, 4 * 34 + 2),
        "comparison-rar.png": (8 * 34 + 2, 4 * 34 + 2),
        "comparison-var.png": (8 * 34 + 2, 4 * 34 + 2),
        "comparison-maskgit.png": (8 * 34 + 2, 4 * 34 + 2),
        "comparison-mar.png": (8 * 34 + 2, 4 * 34 + 2),
        "comparison-fluid.png": (8 * 34 + 2, 4 * 34 + 2),
        "comparison-magvit2.png": (8 * 34 + 2, 4 * 34 + 2),
        "comparison-ibq.png": (8 * 34 + 2, 4 * 34 + 2),
        "comparison-maskbit.png": (8 * 34 + 2, 4 * 34 + 2),
        "comparison-infinity.png": (8 * 34 + 2, 4 * 34 + 2),
        "comparison-reconstructions.png": (6 * 34 + 2, 7 * 34 + 2),  # six are held out
        "edit.png": (13 * 50 + 2, 6 * 50 + 2),
    }


@pytest.mark.slow  # ten systems are trained
def test_a_finished_run_is_used_again(made):
    folder, _ = made
    runs = folder / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/metrics.jsonl")}
    assert len(before) == 18
    with pytest.MonkeyPatch.context() as patch:
        for name, pair in SMALL.items():
            patch.setitem(DEMOS, name, of(name, *pair))
        patch.setattr(demo, "FEWEST", 4)
        patch.setattr(demo, "QUICK", 0.0)
        system = comparison.trained("rar", "shapes:60", True, runs)
    assert system.pipe.model.config.dim == 16
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow  # ten systems are trained
def test_what_bits_buy_is_said_of_tokenizers_of_equally_many_bits(made):
    folder, lines = made
    found = [line for case, line in lines.items() if case.startswith("at equal bits")]
    assert [f["raw_bits"] for f in found] == [80] * 4 + [105] * 2 + [147]
    text = (folder / "comparison.md").read_text()
    flat = " ".join(text.split())
    for f, recipe in zip(found, ALIKE, strict=True):
        told = read_json(folder / "runs" / recipe.__name__ / "report.json")
        assert (f["recipe"], f["psnr"]) == (recipe.__name__, told["held_out_psnr"])
        assert f"| {f['tokenizer']} | {f['codes']} | {f['raw_bits']:.0f} |" in text
        assert (f"{f['tokenizer']}, against " in flat) == bool(f["yardstick"])
    plain, _, _, signs, *_ = found
    change = signs["psnr"] - plain["psnr"]
    way = "better" if change > 0 else "worse"
    assert f"against {plain['tokenizer']}: pictures come back {abs(change):.3g} dB {way};" in flat
    best = min(lines[name]["bits_per_image"] for name in ("llamagen", "rar"))  # no bound
    share = lines["magvit2"]["bits_per_image"] / best - 1
    said = f"{100 * abs(share):.1f} % {'more' if share > 0 else 'fewer'} bits"
    assert f"its best generator needs {said}" in flat


@pytest.mark.slow  # ten systems are trained
def test_usage_counts_every_training_picture_and_its_mirror(made):
    folder, lines = made
    cache = TokenCache(folder / "runs" / "small_var" / "codes.arrow")
    found = comparison.used(cache)
    codes = [torch.cat([cache.codes(cache.train, v) for v in (0, 1)])[:, a:b] for a, b in SPANS]
    assert found["pictures_with_mirrors"] == 2 * 54 == len(codes[0])
    assert found["scales"] == ["1x1", "2x2", "4x4"]
    assert found["usage_by_scale"] == [len(part.unique()) / 32 for part in codes]
    assert found["usage"] == len(torch.cat(codes, 1).unique()) / 32 == lines["var"]["usage"]


SPANS = ((0, 1), (1, 5), (5, 21))


def test_training_seconds_are_those_of_the_log(tmp_path):
    lines = [
        {"step": 10, "loss": 1.0, "tokens_per_s": 320.0},
        {"step": 12, "event": "skipped"},
        {"step": 15, "tokens_per_s": 640.0},
        {"step": 15, "held_out_bits_per_token": 5.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = replace(emoji_llamagen(), train=replace(emoji_llamagen().train, batch=4))
    took = comparison.training_seconds(tmp_path, recipe, units=16)
    assert took == 10 * 4 * 16 / 320 + 5 * 4 * 16 / 640


def shallow(recipe):
    """The recipe with a model of one layer."""
    return replace(recipe, model=replace(recipe.model, layers=1))


def test_operations_are_those_on_paper():
    recipe = shallow(emoji_llamagen())
    linears = [m for m in comparison.fresh(recipe.model).modules() if isinstance(m, nn.Linear)]
    weights, tokens = sum(m.weight.numel() for m in linears), 16 * 64
    attention = 2 * 2 * 64 * 192 * recipe.model.layers  # of a token: queries by keys, by values
    assert comparison.operations(recipe) == 3 * tokens * (2 * weights + attention)


def test_rar_modulates_equal_conditions_once():
    recipe = shallow(emoji_rar())
    nothing = replace(recipe, objective=replace(recipe.objective, cond_dropout=1.0))
    one = 3 * 2 * 65 * (6 * recipe.model.layers + 2) * recipe.model.dim**2  # of a condition
    more = (comparison.operations(recipe) - comparison.operations(nothing)) / one
    assert more * 8 == pytest.approx(round(more * 8), abs=1e-6)  # of eight batches
    assert 5 < more + 1 < 9  # kinds of conditions among 16 pictures of nine classes or of none


@pytest.mark.slow
def test_the_recipes_are_equal_and_others_are_told(monkeypatch):
    comparison.check_equal()

    def longer():
        return replace(emoji_rar(), train=replace(emoji_rar().train, steps=3700))

    monkeypatch.setitem(DEMOS, "rar", of("rar", emoji_vqgan, longer))
    with pytest.raises(AssertionError, match=r"rar has 3700 steps, not 35\d\d"):
        comparison.check_equal()

    def wider():
        return replace(emoji_var(), model=replace(emoji_var().model, dim=176))

    monkeypatch.setitem(DEMOS, "rar", of("rar", emoji_vqgan, emoji_rar))
    monkeypatch.setitem(DEMOS, "var", of("var", emoji_msvqvae, wider))
    with pytest.raises(AssertionError, match=r"var has \+\d+\.\d% parameters"):
        comparison.check_equal()


@pytest.mark.parametrize("recipe", [emoji_rar, emoji_var])
def test_recipes_look_and_save_at_half_of_their_steps(recipe):
    train, goal = recipe().train, recipe().objective
    assert train.preview_every == train.save_every == train.steps / 2
    if recipe is emoji_rar:  # RAR's annealing as published
        assert (goal.random_until, goal.random_end) == (train.steps / 2, train.steps * 3 / 4)


def test_masks():
    assert comparison_edit.quarter(4, 4).tolist() == [
        *([False] * 4, [False] * 4),
        *([False, False, True, True], [False, False, True, True]),
    ]
    halves = [comparison_edit.half(8, 8, seed) for seed in range(4)]
    assert [int(h.sum()) for h in halves] == [32] * 4
    assert torch.equal(halves[1], comparison_edit.half(8, 8, 1))
    assert not torch.equal(halves[1], halves[2])


def test_the_error_is_that_inside_the_mask():
    images = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    drawn = images.repeat(2, 1, 1, 1, 1)
    drawn[0, 0, :, 4:, 4:] = 151  # one of two draws, all of the mask, by 51 = 255 / 5
    drawn[:, 1, :, :4] = 0  # outside
    painted = comparison_edit.quarter(2, 2).expand(2, -1, -1)
    found = comparison_edit.told("quarter", drawn, images, painted)
    assert found["error_quarter"] == pytest.approx([0.02, 0.0])
    assert found["psnr_quarter"] == pytest.approx(-10 * math.log10(0.01))


def test_spread_takes_pictures_from_all_over():
    batch = {"labels": torch.arange(190)}
    assert comparison_edit.spread(batch, 64)["labels"].tolist() == list(range(0, 190, 3))
    assert comparison_edit.spread(batch, 6)["labels"].tolist() == [0, 32, 64, 96, 128, 160]
    assert len(comparison_edit.spread({"labels": torch.arange(5)}, 64)["labels"]) == 5


def test_the_sentence_on_known_codes_says_which_way():
    first = {"error_quarter": [0.1, 0.1], "error_half": [0.3, 0.5], "bits_quarter": 5.0}
    own = {"error_quarter": [0.2, 0.2], "error_half": [0.3, 0.3], "bits_quarter": 5.25}
    told = comparison_page.known_first(
        {
            "RAR (known first)": first | {"bits_half": 6.5},
            "RAR (row by row)": own | {"bits_half": 6.0},
        }
    )
    quarter, half = told.split(";\n")
    assert "50 % smaller (standard error over pictures 0 %)" in quarter
    assert quarter.endswith("a code takes 0.25 bits fewer")
    assert "33.3 % larger (standard error over pictures 33 %)" in half
    assert half.endswith("a code takes 0.5 bits more")
