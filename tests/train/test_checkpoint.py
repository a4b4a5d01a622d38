import errno
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


@pytest.mark.parametrize("keep", [1, 2])
def test_what_was_just_written_stays_where_a_later_one_is_damaged(tmp_path, keep):
    for step in (5, 10, 20):
        checkpoint.save(tmp_path, step, state(step), keep=3)
    (tmp_path / "step-00000020" / "state.json").write_text("{")
    for step in (12, 14):  # going on from 10
        checkpoint.save(tmp_path, step, state(step), keep=keep)
    kept = [p.name for p in checkpoint.found(tmp_path)]
    assert kept == ["step-00000012", "step-00000014", "step-00000020"][2 - keep :]
    checkpoint.save(tmp_path, 20, state(20), keep=keep)
    assert_equal(checkpoint.load(checkpoint.found(tmp_path)[-1]), state(20))


@pytest.mark.parametrize("where", ["write_tensors", "replace"])
def test_a_crash_while_writing_leaves_the_one_before(tmp_path, monkeypatch, where):
    checkpoint.save(tmp_path, 10, state(10), keep=1)

    def crash(*args, **kwargs):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint if where == "write_tensors" else os, where, crash)
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


def test_a_writer_writes_what_was_there_when_it_was_asked(tmp_path):
    writer, weight = checkpoint.Writer(tmp_path, keep=2), torch.zeros(1000)
    for step in (1, 2, 3):
        weight.fill_(step)
        writer.save(step, {"weight": weight, "step": step})
        weight.fill_(-1)
    writer.wait()
    writer.close()
    assert [p.name for p in checkpoint.found(tmp_path)] == ["step-00000002", "step-00000003"]
    for step, path in zip((2, 3), checkpoint.found(tmp_path), strict=True):
        state = checkpoint.load(path)
        assert state["step"] == step and state["weight"].tolist() == [step] * 1000


@pytest.mark.parametrize("ask", ["check", "wait", "save"])
def test_a_full_disk_is_told_and_leaves_the_one_before(tmp_path, monkeypatch, ask):
    writer = checkpoint.Writer(tmp_path, keep=1)
    writer.save(1, state(1))
    writer.wait()

    def full(path, tensors):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    writer.save(2, state(2))
    writer._pending.exception()  # written, or rather not
    words = "step 2 cannot be written to .*No space left.*last complete one is step-00000001. Make"
    with pytest.raises(OSError, match=words):
        writer.save(3, state(3)) if ask == "save" else getattr(writer, ask)()
    writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"], "the space is given back"
    assert_equal(checkpoint.load(tmp_path / "step-00000001"), state(1))


def test_a_sharded_checkpoint_is_read_into_place(tmp_path):
    weight = torch.arange(6.0).view(2, 3)
    before = {"step": 7, "objective": {"a/b": weight.clone()}, "list": [torch.tensor(2.0), None]}
    checkpoint.save_sharded(tmp_path, 7, before, keep=1)
    (path,) = checkpoint.found(tmp_path)
    target = {"step": 0, "objective": {"a/b": torch.zeros(2, 3)}, "list": [torch.zeros(()), None]}
    assert checkpoint.load_sharded(path, lambda told: target)["step"] == 7
    assert torch.equal(target["objective"]["a/b"], weight) and float(target["list"][0]) == 2
    (shard,) = path.glob("*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="step-00000007 cannot be read"):
        checkpoint.load_sharded(path, lambda told: target)
    shard.write_bytes(content)
    (path / "state.json").unlink()
    with pytest.raises(ValueError, match="step-00000007 cannot be read"):
        checkpoint.load_sharded(path, lambda told: target)


def test_a_full_disk_under_a_sharded_checkpoint(tmp_path, monkeypatch):
    checkpoint.save_sharded(tmp_path, 1, {"a": torch.ones(2)}, keep=1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem._write_item", full)
    words = "step 2 cannot be written to .*No space left.*last complete one is step-00000001. Make"
    with pytest.raises(OSError, match=words):
        checkpoint.save_sharded(tmp_path, 2, {"a": torch.ones(2)}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
