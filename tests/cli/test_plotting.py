"""Plots: what is drawn, and what is refused in one line."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import smalti
from smalti.cli import plots as plotting
from smalti.cli.main import main
from smalti.cli.plots import plot_runs, series, smoothed, usual


def write_run(folder: Path, shift: float = 0.0, more: str = "held_out_bits_per_token") -> Path:
    """A run of 40 steps, evaluated twice, that a crash cut off."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(10, 50, 10):
        lines.append({"step": step, "loss": 5 - step / 10 + shift, "lr": 1e-3})
        if step % 20 == 0:
            lines.append({"step": step, more: 8 - step / 20 + shift, "held_out_images": 6.0})
    lines.insert(3, {"step": 25, "event": "spike", "loss": 99.0, "action": "skip"})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 50, "lo')
    return folder


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved."""
    kept, save = [], plotting._save

    def saved(figure, out):
        kept.append(figure)
        save(figure, out)

    monkeypatch.setattr(plotting, "_save", saved)
    return kept


def test_the_curves_of_two_runs(tmp_path, figures, capsys):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", shift=1)
    out = tmp_path / "curves.png"
    main(["plot", str(a), str(b), "--out", str(out), "--json"])
    keys = ["loss", "held_out_bits_per_token"]
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "keys": keys}
    with Image.open(out) as image:
        assert image.size == (1200, 432)
    loss, held = figures[0].axes
    assert [panel.get_title() for panel in (loss, held)] == keys
    raw, mean, other, _ = loss.get_lines()
    assert raw.get_ydata().tolist() == [4, 3, 2, 1] and other.get_ydata()[0] == 5
    assert mean.get_ydata() == pytest.approx(smoothed(np.array([4.0, 3, 2, 1]), 0.8))
    assert held.get_lines()[0].get_xydata().tolist() == [[20, 7], [40, 6]]
    assert [text.get_text() for text in held.get_legend().get_texts()] == ["a", "b"]
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "curves.png"}


def test_keys_that_one_run_has(tmp_path, figures):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", more="held_out_psnr")
    assert plot_runs([a, b], tmp_path / "c.png", ["lr", "held_out_psnr"]) == ["lr", "held_out_psnr"]
    assert [len(panel.get_lines()) for panel in figures[0].axes] == [4, 1]
    same = write_run(tmp_path / "other" / "a")
    plot_runs([a, same], tmp_path / "c.png", ["loss"])
    legend = figures[1].axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == [str(a), str(same)]
    plot_runs([a], tmp_path / "c.png", ["loss"])
    assert figures[2].axes[0].get_legend() is None


def test_panels_in_rows_of_three(tmp_path, figures):
    run = write_run(tmp_path / "a")
    plot_runs(
        [run], tmp_path / "c.png", ["loss", "lr", "held_out_images", "held_out_bits_per_token"]
    )
    assert len(figures[0].axes) == 4 and figures[0].get_size_inches().tolist() == [15, 7.2]


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1
    return lines[0]


def test_bad_input_is_one_line(tmp_path, capsys):
    run, out = write_run(tmp_path / "a"), tmp_path / "c.png"
    assert "holds no metrics.jsonl, so it is not the folder of a run" in refused(
        capsys, "plot", tmp_path, "--out", out
    )
    line = refused(capsys, "plot", run, "--out", out, "--keys", "los")
    assert "no run has 'los'; did you mean 'loss'? (there are loss, lr, held_out_bits" in line
    assert "smoothing must be in [0, 1), got 1.0" in refused(
        capsys, "plot", run, "--out", out, "--smoothing", "1"
    )
    (run / "metrics.jsonl").write_text('{"st')
    assert "holds no numbers yet" in refused(capsys, "plot", run, "--out", out)
    for text, words in (
        ('{"loss": 1}', 'has a line of no step: {"loss": 1}'),
        ("[1]", "has a line of no step: [1]"),
        ('{"step": 1, "loss": "abc"}', "loss must be a number at every step, got 'abc'"),
        ('{"step": 1, "loss": [2]}', "loss must be a number at every step, got [2]"),
    ):
        (run / "metrics.jsonl").write_text(text)
        assert words in refused(capsys, "plot", run, "--out", out)
    assert "is a folder, name a file" in refused(capsys, "plot", run, "--out", tmp_path)
    refused(capsys, "plot", "--out", out)
    with pytest.raises(ValueError, match="at least one run"):
        plot_runs([], out)
    assert not out.exists()


def test_without_matplotlib_a_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    line = refused(capsys, "plot", write_run(tmp_path / "a"), "--out", tmp_path / "c.png")
    assert line == 'smalti plot: plots need `pip install "smalti[plot]"`'
    given = ["emoji_llamagen", "--sizes", "1", "2", "3", "4", "--out", tmp_path / "ladder"]
    assert 'pip install "smalti[plot]"' in refused(capsys, "scaling", *given)
    assert not (tmp_path / "ladder").exists()


def test_one_module_imports_matplotlib_and_only_to_draw():
    found = {}
    for path in Path(smalti.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "matplotlib" for name in names):
                found.setdefault(path.name, []).append(node in tree.body)
    assert found == {"plots.py": [False]}


def test_what_is_drawn_by_default():
    held = ["nats_per_token", "bits_per_token", "bits_per_image", "images"]
    known = ["loss", "lr", *(f"held_out_{name}" for name in held)]
    assert usual(known) == ["loss", "held_out_bits_per_token"]
    bounds = [f"held_out_{name}_bound" for name in held[:3]]
    assert usual(bounds) == ["held_out_bits_per_token_bound"]
    scales = ["held_out_psnr", "held_out_usage", "held_out_usage_1x1", "held_out_usage_2x2"]
    assert usual(scales) == ["held_out_psnr", "held_out_usage"]


def test_series_read_what_is_no_number():
    records = [{"step": 1, "loss": "nan"}, {"step": 2, "loss": 3}, {"step": 2, "event": "nan"}]
    (rows,) = series(records).values()
    assert math.isnan(rows[0, 1]) and rows[1].tolist() == [2, 3]


NUMBERS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30).map(np.array)


@given(NUMBERS, st.floats(0, 0.99))
def test_a_running_mean(values, smoothing):
    mean = smoothed(values, smoothing)
    assert mean[0] == pytest.approx(values[0])
    assert (mean >= values.min() - 1e-9).all() and (mean <= values.max() + 1e-9).all()
    assert smoothed(values, 0.0) == pytest.approx(values)
    assert smoothed(2 * values + 1, smoothing) == pytest.approx(2 * mean + 1)
    gap = smoothed(np.insert(values, 1, np.nan), smoothing)
    assert gap[1] == pytest.approx(mean[0]) and np.delete(gap, 1) == pytest.approx(mean)


def test_losses_that_are_different_numbers_get_a_panel_each(tmp_path, figures):
    a, b = write_run(tmp_path / "rar"), write_run(tmp_path / "llamagen", shift=1)
    tokenizer = write_run(tmp_path / "tokenizer", more="held_out_psnr")
    masked = write_run(tmp_path / "mar", more="held_out_diffusion_loss")
    keys = plot_runs([a, tokenizer, b, masked], tmp_path / "c.png", ["loss", "lr"])
    assert keys == ["loss", "lr"]
    panels = [
        (p.get_title(), [t.get_text() for t in p.get_legend().get_texts()]) for p in figures[0].axes
    ]
    assert panels == [
        ("loss", ["rar", "llamagen"]),
        ("loss", ["tokenizer"]),
        ("loss", ["mar"]),
        ("lr", ["rar", "tokenizer", "llamagen", "mar"]),
    ]
    colours = [p.get_lines()[1].get_color() for p in figures[0].axes]
    assert colours == ["C0", "C1", "C3", "C0"]  # a run keeps its colour


def test_a_kl_vae_and_a_vqgan_have_different_losses(tmp_path, figures):
    for name, more in (("vq", {}), ("kl", {"kl": 3.0})):
        (tmp_path / name).mkdir()
        line = {"step": 10, "loss": 1.0, "images_per_s": 9.0} | more
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    plot_runs([tmp_path / "vq", tmp_path / "kl"], tmp_path / "c.png", ["loss"])
    assert len(figures[0].axes) == 2
