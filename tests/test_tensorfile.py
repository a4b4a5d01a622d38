"""What is written is read back by the safetensors library, bit for bit."""

import errno

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from smalti.files import SAFETENSORS, write_tensors


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda s: s != "__metadata__" and s.isprintable()),
        st.tuples(st.sampled_from(sorted(SAFETENSORS)), st.lists(st.integers(0, 4), max_size=3)),
        max_size=5,
    )
)
def test_round_trip(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: (torch.randint(-9, 9, shape, generator=generator)).to(getattr(torch, dtype))
        for name, (dtype, shape) in wanted.items()
    }
    write_tensors(path, tensors)
    back = load_file(path)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor)


def test_views_and_gradients(tmp_path):
    weight = torch.arange(12.0).view(3, 4).requires_grad_()
    write_tensors(tmp_path / "x", {"a": weight.T, "b": weight[1:, ::2]}, flush=False)
    back = load_file(tmp_path / "x")
    assert back["a"].tolist() == weight.T.tolist()
    assert back["b"].tolist() == [[4.0, 6.0], [8.0, 10.0]]
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_full_disk_is_an_error():
    from pathlib import Path

    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError) as error:
        write_tensors(full, {"a": torch.zeros(4)})
    assert error.value.errno == errno.ENOSPC
