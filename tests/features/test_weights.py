"""Files of weights: whose they are, whether they are whole, and where they come from."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from smalti.features.weights import Released, check, digest, fetch, read

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}
SHAPES = {"a.weight": (2, 3), "a.bias": (2,)}
OTHER = "0" * 64


def test_both_kinds_of_files_hold_the_same(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        found = read(tmp_path / name)
        assert found.keys() == STATE.keys()
        assert all(torch.equal(found[k], v) for k, v in STATE.items())
        assert digest(found) == digest(dict(reversed(STATE.items())))
    assert digest(STATE) != digest(STATE | {"a.bias": torch.tensor([1.0, 1.5])})
    assert digest(STATE) != digest(STATE | {"a.weight": STATE["a.weight"].view(3, 2)})
    assert digest(STATE) != digest({"b.weight": STATE["a.weight"], "a.bias": STATE["a.bias"]})


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*missing.pth"):
        read(tmp_path / "missing.pth")
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(ValueError, match=f"{name} holds no weights that can be read"):
            read(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no weights but list"):
        read(tmp_path / "list.pth")
    torch.save({"epoch": 3, **STATE}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match="holds no weights but dict"):
        read(tmp_path / "more.pth")


def test_what_differs_is_said(tmp_path):
    check(STATE, SHAPES, tmp_path, "A")
    only = {"a.weight": STATE["a.weight"].T, "layer1.0.conv1.weight": torch.ones(1)}
    with pytest.raises(ValueError) as error:
        check(only, SHAPES, tmp_path, "A")
    assert str(error.value) == (
        f"{tmp_path} does not hold A (this seems to be a ResNet): it lacks a.bias; "
        "it also has layer1.0.conv1.weight; a.weight is (3, 2) and not (2, 3)"
    )
    many = STATE | {f"b{i}": torch.ones(1) for i in range(5)}
    with pytest.raises(ValueError, match="A: it also has b0, b1, b2 and 2 more$"):
        check(many, SHAPES, tmp_path, "A")


def test_a_file_of_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    path = tmp_path / "a.bin"
    path.write_bytes(b"weights")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name: str(path))
    right = hashlib.sha256(b"weights").hexdigest()
    assert fetch(Released("owner/name", "a.bin", right)) == path
    with pytest.raises(ValueError, match=f"a.bin of owner/name has sha256 .*expected {OTHER}"):
        fetch(Released("owner/name", "a.bin", OTHER))


def test_a_file_of_an_address_is_downloaded_once(tmp_path, monkeypatch):
    asked = []

    def download(url, path, progress):
        asked.append(url)
        with open(path, "wb") as file:
            file.write(b"weights")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    file = Released("https://host/folder", "a.pth", hashlib.sha256(b"weights").hexdigest())
    for _ in range(2):
        assert fetch(file) == tmp_path / "checkpoints" / "a.pth"
    assert asked == ["https://host/folder/a.pth"]


def test_without_a_network(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no network\nand much more")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(OSError, match="^https://host/a.pth cannot be had: no network$"):
        fetch(Released("https://host", "a.pth", OTHER))
