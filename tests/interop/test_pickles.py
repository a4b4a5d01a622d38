"""Checkpoints of other projects: every layout is read, nothing in them is run."""

import argparse
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from official import Runs, layouts, wrapped, write
from smalti.interop.pickles import read_checkpoint

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b.module_list.0.bias": torch.ones(2)}
ARGS = {"gpt_model": "GPT-B", "image_size": 256, "path": None, "betas": (0.9, 0.95)}
INSIDE = {
    "a._fsdp_wrapped_module.weight": STATE["a.weight"],
    "b.module_list._checkpoint_wrapped_module.0.bias": STATE["b.module_list.0.bias"],
}
PARAMETERS = {name: torch.nn.Parameter(tensor) for name, tensor in STATE.items()}
LAYOUTS = layouts(STATE, ARGS) | {"inside": (INSIDE, []), "parameters": (PARAMETERS, [])}


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name, zipped):
    content, options = LAYOUTS[name]
    path = write(content, tmp_path / "x.pt", old=not zipped)
    found = read_checkpoint(path, *options[1:])
    assert found.path == path and same(found.state, STATE)
    assert found.args == (ARGS if "args" in content else {})
    assert not any(t.requires_grad for t in found.state.values())


def test_a_file_of_vars_trainer_holds_two_parts(tmp_path):
    state = {"config": {"patch_nums": (1, 2)}, "var_opt": {}, "vae_local": STATE}
    content = {"args": {"depth": 2}, "epoch": 1, "iter": 7, "trainer": state}
    path = write(
        content | {"trainer": state | {"var_wo_ddp": wrapped(STATE, "module")}}, tmp_path / "x"
    )
    assert same(read_checkpoint(path).state, STATE)
    assert same(read_checkpoint(path, part="vae_local").state, STATE)
    assert read_checkpoint(path).args == {}
    found = read_checkpoint(write(content, tmp_path / "y")).state
    assert same(found, wrapped(STATE, "trainer", "vae_local"))  # of which the kind is told


def test_no_moving_average(tmp_path):
    path = write(LAYOUTS["ddp"][0], tmp_path / "x.pt")
    with pytest.raises(ValueError, match="no moving average 'ema'; it has model, optimizer, steps"):
        read_checkpoint(path, "ema")


@pytest.mark.parametrize("name", ["ema", "model_ema"])
def test_the_moving_average_where_there_is_one(tmp_path, name):
    average = {k: t + 1 for k, t in STATE.items()}
    path = write({"model": STATE, name: average, "optimizer": {}}, tmp_path / "x.pth")
    for weights, wanted in (("ema", average), ("", average), ("model", STATE)):
        found = read_checkpoint(path, weights)
        assert same(found.state, wanted) and found.averaged == (weights != "model")
    flat = write(STATE, tmp_path / "y.safetensors")
    found = read_checkpoint(flat, "")
    assert same(found.state, STATE) and not found.averaged
    with pytest.raises(ValueError, match="no moving average 'ema'; it has a.weight, b.module"):
        read_checkpoint(flat, "ema")


def test_safetensors(tmp_path):
    path = write(wrapped(STATE, "module"), tmp_path / "x.safetensors")
    assert same(read_checkpoint(path).state, STATE)


def test_weights_stay_in_the_file_until_they_are_used(tmp_path):
    """A map of the file sees a byte that changes in it; a copy would not."""
    path = tmp_path / "x.pt"
    torch.save({"model": {"a": torch.full((64,), 1.0)}}, path)
    tensor = read_checkpoint(path).state["a"]
    data = path.read_bytes()
    where = data.index(torch.full((64,), 1.0).numpy().tobytes())
    with path.open("r+b") as file:
        file.seek(where)
        file.write(torch.tensor([5.0]).numpy().tobytes())
    assert tensor[0] == 5.0


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["model", "args", "tensor"])
def test_nothing_is_run(tmp_path, place, zipped):
    trap = Runs(tmp_path / "trap")
    content = {"model": STATE, "args": argparse.Namespace(**ARGS)}
    content |= {
        "model": {"model": trap},
        "args": {"args": argparse.Namespace(x=trap)},
        "tensor": {"model": STATE | {"a.weight": trap}},
    }[place]
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"x.pt is refused: its pickle asks for \w+.mkdir,"):
        read_checkpoint(tmp_path / "x.pt")
    assert not trap.path.exists()
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert trap.path.exists()  # the trap works where a file is trusted


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_pickle_is_not_run(tmp_path, protocol):
    trap = Runs(tmp_path / "trap")
    (tmp_path / "x.pth").write_bytes(pickle.dumps(trap, protocol))
    with pytest.raises(ValueError, match="x.pth is (refused|damaged or no checkpoint)"):
        read_checkpoint(tmp_path / "x.pth")
    assert not trap.path.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), "is not a state dict but Tensor"),
        ([STATE], "is not a state dict but list"),
        ({"model": {}}, "holds no state dict; it has model"),
        ({}, "holds no state dict; it has nothing"),
        ({"a": torch.ones(2), "epoch": 3}, "holds no state dict; it has a, epoch"),
        ({"a": torch.eye(3).to_sparse()}, "holds no state dict; it has a"),
        ({"a": torch.ones(2, device="meta")}, "holds no state dict; it has a"),
        ({"module.a": torch.ones(2), "a": torch.ones(2)}, "some tensors twice"),
        (torch.nn.Linear(2, 2), "is refused: its pickle asks for torch.nn.modules.linear.Linear,"),
        ({"model": STATE, "args": argparse.Namespace(p=Path("x"))}, r"asks for pathlib\.\w+,"),
    ],
)
def test_what_is_no_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=f"x.pt .*{message}"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_files_that_are_no_checkpoint(tmp_path, name):
    path = tmp_path / name
    for content, message in (
        (None, "is not a file"),
        (b"", "is empty"),
        (b"hello world\nthis is a text\n", "is text, not a checkpoint: 'hello world this is a"),
        (b"PK\x03\x04 not a zip", "is incomplete or damaged: the end of its zip archive is miss"),
        (b"\x07\x01nothing", "is damaged or no checkpoint of torch"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} ({message})") as failure:
            read_checkpoint(path)
        assert len(str(failure.value).splitlines()) == 1


@pytest.fixture(scope="module", params=[True, False], ids=["zip", "old"])
def bytes_of_a_checkpoint(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "x.pt"
    write(LAYOUTS["ddp"][0], path, old=not request.param)
    return path, path.read_bytes()


@given(data=st.data())
def test_damage_is_a_value_error_or_harmless(bytes_of_a_checkpoint, data):
    path, content = bytes_of_a_checkpoint
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(0, 3))):
        broken[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(broken[: data.draw(st.integers(0, len(content)))])
    try:
        assert read_checkpoint(path).state
    except ValueError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1
