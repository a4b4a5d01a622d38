import math
import os

import pytest
import torch

from smalti.train import checkpoint


def state(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 4, generator=generator)
    return {
        "step": seed,
        "none": None,
        "nested": {"list": [1, 2.5, weight.T, {"deep/key": weight}], 7: "integer key"},
        "types": [weight.bfloat16(), weight > 0, weight.long(), torch.tensor(0.25)],
        "rng": torch.get_rng_state(),
        "empty": {"dict": {}, "list": [], "tensor": torch.zeros(0, 3)},
        "numbers": [math.inf, -1e-300, 2**60, True, "text"],
    }


def assert_equal(a, b) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def test_nested_state_comes_back_bit_for_bit(tmp_path):
    path = checkpoint.save(tmp_path / "checkpoints", 12, state(), keep=2)
    assert path.name == "step-00000012"
    assert_equal(checkpoint.load(path), state())


def test_tensors_that_share_storage_come_back(tmp_path):
    base = torch.arange(6.0)
    path = checkpoint.save(tmp_path, 1, {"a": base, "b": base[2:4]}, keep=1)
    assert checkpoint.load(path)["b"].tolist() == [2.0, 3.0]


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-00000015", "step-00000020"]
    assert checkpoint.found(tmp_path / "missing") == []


@pytest.mark.parametrize("where", ["save_file", "replace"])
def test_a_crash_while_writing_leaves_the_one_before(tmp_path, monkeypatch, where):
    checkpoint.save(tmp_path, 10, state(10), keep=1)

    def crash(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint if where == "save_file" else os, where, crash)
        with pytest.raises(OSError, match="no space"):
            checkpoint.save(tmp_path, 20, state(20), keep=1)
    complete = checkpoint.found(tmp_path)
    assert [p.name for p in complete] == ["step-00000010"]
    assert_equal(checkpoint.load(complete[-1]), state(10))
    checkpoint.save(tmp_path, 20, state(20), keep=1)  # what lies around is in nobody's way
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000020"]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_named(tmp_path, file, damage):
    path = checkpoint.save(tmp_path, 3, state(), keep=1)
    if damage == "cut":
        content = (path / file).read_bytes()
        (path / file).write_bytes(content[: len(content) // 2])
    else:
        (path / file).unlink()
    with pytest.raises(ValueError, match="step-00000003 cannot be read"):
        checkpoint.load(path)
