"""How golden folders are read and compared."""

import json

import golden
import pytest
import torch
from golden import Vectors, close, float32, folders, grid_of, load
from safetensors.torch import save_file


def test_a_folder_is_found_by_its_family_and_read(tmp_path, monkeypatch):
    for name, family in (("b", "one"), ("a", "one"), ("c", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"family": family}))
        save_file({"x": torch.ones(1)}, tmp_path / name / "io.safetensors")
    monkeypatch.setattr(golden, "ROOT", tmp_path)
    assert [folder.values[0] for folder in folders("one")] == [tmp_path / "a", tmp_path / "b"]
    config, weights, io = load(tmp_path / "c")
    assert config == {"family": "two"} and weights == {} and io["x"] == 1
    monkeypatch.setattr(golden, "ROOT", tmp_path / "none")
    (skipped,) = folders("one")
    assert skipped.marks[0].name == "skip" and "SMALTI_GOLDEN" in skipped.marks[0].kwargs["reason"]


def test_outputs_that_are_absent_are_left_out_and_unknown_ones_fail():
    io = Vectors({"a": torch.ones(2), "run_x_tokens": torch.ones(2), "logits_0": torch.zeros(3)})
    io.check("a", torch.ones(2))
    io.check("absent", torch.ones(5))
    assert io.runs("run_(.+)_tokens") == ["x"] and io.get("absent") is None
    with pytest.raises(AssertionError, match="no check has read: logits_0, run_x_tokens"):
        io.done()
    assert len(io.series("logits_")) == 1 and io.get("run_x_tokens") is not None
    io.done()


def test_a_folder_of_which_nothing_is_compared_fails():
    io = Vectors({"image": torch.ones(2)})
    assert io["image"].sum() == 2
    with pytest.raises(AssertionError, match="nothing was compared"):
        io.done()


def test_tolerances_follow_the_largest_value_and_the_dtype():
    wanted = torch.tensor([60.0, 0.0])
    close(torch.tensor([60.001, 0.001]), wanted)
    for wrong in ([60.0, 0.002], [60.002, 0.0], [float("nan"), 0.0]):
        with pytest.raises(AssertionError):
            close(torch.tensor(wrong), wanted)
    close(torch.tensor([1e-9 + 1e-15]), torch.tensor([1e-9]))
    with pytest.raises(AssertionError):
        close(torch.tensor([2e-9]), torch.tensor([1e-9]))
    double = torch.tensor([37.0], dtype=torch.float64)
    with pytest.raises(AssertionError):
        close(double + 1e-6, double)
    close(double + 1e-6, double, 1e-7)  # a percentage that was computed in float32
    close(double + 1e-6, double, size=1e6)
    infinite = torch.tensor([torch.inf, 1.0])
    close(infinite, infinite)
    with pytest.raises(AssertionError):
        close(torch.tensor([3, 4]), torch.tensor([3, 5]))


def test_clamped_values_are_compared_by_the_size_that_they_had():
    io = Vectors({"image": torch.tensor([1.0, 0.5])})
    io.clamped("image", torch.tensor([90.0, 0.5017]), -1, 1)
    with pytest.raises(AssertionError, match="image"):
        io.clamped("image", torch.tensor([2.0, 0.5017]), -1, 1)


def test_weights_are_computed_with_in_float32():
    both = float32({"w": torch.ones(1).half(), "n": torch.tensor(3)})
    assert both["w"].dtype == torch.float32 and both["n"].dtype == torch.int64


def test_grids_of_a_number_of_codes():
    assert [grid_of(n) for n in (16, 24, 13, 12)] == [(4, 4), (4, 6), (1, 13), (3, 4)]
