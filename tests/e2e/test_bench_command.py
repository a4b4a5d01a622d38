"""`smalti bench` of small models, and what it says of mistakes."""

import json
from dataclasses import replace

import pytest
import torch

from builders import build, models, pipeline, tokenizers
from smalti.cli.main import main
from smalti.devices import named, rates
from smalti.pipeline.sampling import Sampling
from smalti.runs import bench
from smalti.runs.bench import Bench

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def known_rates(monkeypatch):
    """What the machine can do is not measured: 4 GB and 2 G operations a second."""
    monkeypatch.setattr(rates, "bandwidth", lambda device: 4e9)
    monkeypatch.setattr(rates, "product_rate", lambda device, dtype=None: 2e9)


def told(capsys, *arguments):
    capsys.readouterr()
    main(["bench", *map(str, arguments), "--seconds", "0.01", "--dtype", "float32", "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "name",
    [
        "llamagen",
        "var",
        pytest.param("mar", marks=pytest.mark.slow),
        "rar",
        "llamagen-text",
        "taming-map",
    ],
)
def test_a_pipeline_is_drawn_from_and_trained(tmp_path, capsys, name):
    pipe = pipeline(name)
    pipe.save_pretrained(tmp_path)
    drawn = told(capsys, "draw", tmp_path, "--batch", "1,2")
    assert [row["batch"] for row in drawn["rows"]] == [1, 2]
    for row in drawn["rows"]:
        assert row["bytes"] == bench.step_bytes(pipe.model) * row["passes"]
        assert row["limit"] == pytest.approx(max(row["bytes"] / 4e9, row["operations"] / 2e9))
        assert row["share"] == pytest.approx(row["limit"] / row["seconds"])
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["seconds"])
        assert 0 < row["measured"] <= 1
    one, two = (row["operations"] for row in drawn["rows"])
    assert one < two < 2.2 * one  # a MAR modulates once for all images
    (step,) = told(capsys, "train", tmp_path, "--batch", 3)["rows"]
    assert (
        step["operations"] > 3 * pipe.model.spec.positions
        and step["work"] == "train"
        and step["memory"] > 0
    )


def test_passes_that_draw_ahead_are_counted():
    """A pass that is done with several codes is one."""
    model, how = build(*models()["llamagen"]), Bench(CPU, seconds=60)
    model.head.logits = lambda h: 1e4 * torch.eye(model.spec.vocab)[3].expand(*h.shape[:2], -1)
    sampling = Sampling.of(parallel="exact", window=4)
    of = bench.Drawer("one code", model, sampling, bench.GOALS["causal"])
    row = bench.draw(how, of, 2)
    assert row.passes == 5 and row.measured == 1  # of 1, 4, 4, 4 and 3 codes
    assert row.bytes == 5 * bench.step_bytes(model)
    assert bench.draw(replace(how, seconds=1e-9), of, 2).passes == 5  # reckoned behind the second


def test_pictures_are_decoded_as_pipelines_do(monkeypatch):
    monkeypatch.setattr(named, "HALF_DECODERS", ("cpu",))
    tokenizer, seen = build(*tokenizers()["vqgan"]), set()
    decode = tokenizer.decode
    monkeypatch.setattr(
        tokenizer, "decode", lambda c: seen.add(torch.is_autocast_enabled("cpu")) or decode(c)
    )
    row = bench.decode(Bench(CPU, seconds=0.01), "vqgan", tokenizer, 1)
    assert row.dtype == "bfloat16" and seen == {True}


@pytest.mark.parametrize("work", ["encode", "decode"])
def test_a_tokenizer_is_measured(tmp_path, capsys, work):
    pipeline("llamagen").save_pretrained(tmp_path)
    whole, alone = (
        told(capsys, work, folder, "--batch", 2) for folder in (tmp_path, tmp_path / "tokenizer")
    )
    (row,), (again,) = whole["rows"], alone["rows"]
    assert row["operations"] == again["operations"] > 0
    assert whole["machine"]["bandwidth_gb_per_s"] == 4 and whole["machine"]["threads"] > 0


def test_a_recipe_is_measured_with_random_weights(capsys):
    main(["bench", "draw", "--recipe", "emoji-llamagen", "--batch", "1", "--seconds", "0.01"])
    said = capsys.readouterr().err
    assert "draw emoji-llamagen" in said and "reads 4.0 GB/s, multiplies 2 GFLOP/s" in said


def test_operations_of_a_drawing_are_those_of_its_products(tmp_path):
    """Of one pass over all positions, for both branches of guidance."""
    of = bench.drawer("emoji_llamagen", True, CPU)
    counted = bench.drawn_operations(of.model, of.sampling, bench.conditions(of.model, 3, CPU))
    layers = [m for m in of.model.modules() if isinstance(m, torch.nn.Linear)]
    products = 2 * 64 * sum(m.weight.numel() for m in layers)
    c = of.model.config
    attention = c.layers * 4 * 64 * 64 * c.dim
    assert counted == 3 * 2 * (products + attention)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("draw --batch 0", "--batch must be at least 1 and --seconds above 0, got 0"),
        ("draw --seconds nan", "and --seconds above 0, got 1,8 and nan"),
        ("encode --seconds inf", "and --seconds above 0, got 1,8 and inf"),
        ("draw --batch 1,x", "--batch must be an integer, or several with commas between them"),
        ("draw a --recipe b", "give a PIPELINE or --recipe, not both: 'a' and 'b'"),
        ("draw --recipe llamagen_q", "'llamagen_q' is no recipe; did you mean"),
        ("draw --recipe emoji_vqgan", "recipes of generators, and emoji_vqgan is a Tokenizer"),
        ("encode --recipe llamagen_b", "recipes of tokenizers, and llamagen_b is a Generator"),
        (
            "train --recipe emoji_llamagen --dtype float16",
            "float32 or bfloat16, got --dtype float16",
        ),
        ("run", "WORK must be one of draw, train, encode, decode, got 'run'"),
        ("", "WORK is missing"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments.split()])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1
