"""What is no checkpoint is named for what it is, in one line; what is one is read whatever its
name."""

import gzip
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from builders import build
from official import write
from smalti.interop.pickles import files_of, read_checkpoint
from smalti.interop.saved import hashes
from smalti.modules import save_module
from smalti.tokenizers import vqgan
from smalti.tokenizers.vqgan import VQGAN

STATE = {"a.weight": torch.arange(600.0).view(2, 300), "b.bias": torch.ones(2)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Sign in &amp; go</title></head></html>"


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"))
    return file.getvalue()


def numpy_archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(2))
    return file.getvalue()


def program() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)
    return file.getvalue()


CASES = {
    "pointer": (POINTER, "is a Git LFS pointer, not the file itself; download it again, or run: g"),
    "page": (PAGE, "is a web page, not a checkpoint: 'Sign in &amp; go'; download it again"),
    "xml": (b"<?xml version='1.0'?><Error/>", "is a web page, not a checkpoint; download"),
    "json": (b'{"error": "Repository not found"}', 'is JSON, not a checkpoint: \'{"error": "Rep'),
    "text": (b"Entry not found", "is text, not a checkpoint: 'Entry not found'"),
    "empty": (b"", "is empty"),
    "zeros": (bytes(9000), "begins with zeros alone, as a download does that was cut off"),
    "zip": (zipped("vq.pt", "readme"), r"is a zip archive; unpack it first \(it has vq.pt, readme"),
    "npz": (numpy_archive(), "is an .npz file of numpy arrays"),
    "program": (program(), "is a TorchScript program, not a state dict"),
    "gzip": (gzip.compress(b"x"), "is compressed with gzip; unpack it first"),
    "tar": (tarred(), "is a tar archive; unpack it first"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(50), "is a GGUF file of llama.cpp"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 file, as Keras writes"),
    "flax": (b"\x81\xa6params\x82\xa5Dense\x80", "is msgpack, as JAX and flax write it; smalti"),
    "flax-large": (b"\xde\x00\x20\xd9\x30" + b"k" * 48 + b"\x80", "is msgpack, as JAX and flax"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "is an ONNX file or another protocol buff"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG picture"),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_no_checkpoint_is_named(tmp_path, name, suffix):
    content, words = CASES[name]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^\S+x{suffix} {words}") as failure:
        read_checkpoint(path)
    assert len(str(failure.value).splitlines()) == 1 and len(str(failure.value)) < 300


@pytest.mark.parametrize("old", [False, True])
def test_a_download_that_was_cut_off(tmp_path, old):
    whole = write(STATE, tmp_path / "whole.pt", old).read_bytes()
    words = "damaged or no checkpoint" if old else "incomplete or damaged: .*; download it again$"
    for end in (len(whole) - (600 if old else 1), len(whole) // 2, 70):
        (tmp_path / "x.pt").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=f"x.pt is {words}"):
            read_checkpoint(tmp_path / "x.pt")


def test_safetensors_that_were_cut_off(tmp_path):
    save_file(STATE, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    path = tmp_path / "x.safetensors"
    for end, wanted in ((len(whole) - 1, len(whole)), (length + 9, len(whole)), (50, length + 8)):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=f"x.safetensors is incomplete, {end} of {wanted} byt"):
            read_checkpoint(path)
    path.write_bytes(whole[:8] + b"{" + whole[9:].replace(b"F32", b"F99"))
    with pytest.raises(ValueError, match="x.safetensors cannot be read: "):
        read_checkpoint(path)


def test_the_content_decides_not_the_name(tmp_path):
    save_file(STATE, tmp_path / "x.pt")
    torch.save(STATE, tmp_path / "x.safetensors")
    for name in ("x.pt", "x.safetensors"):
        assert torch.equal(read_checkpoint(tmp_path / name).state["a.weight"], STATE["a.weight"])


def shards(folder, ending: str) -> str:
    """Two shards of the state and their index, whose name it returns."""
    base = "model" if ending == "safetensors" else "pytorch_model"
    names = [f"{base}-0000{i}-of-00002.{ending}" for i in (1, 2)]
    for name, (key, tensor) in zip(names, STATE.items(), strict=True):
        write({key: tensor}, folder / name)
    index = f"{base}.{ending}.index.json"
    content = {"metadata": {"total_size": 8}, "weight_map": dict(zip(STATE, names, strict=True))}
    (folder / index).write_text(json.dumps(content))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_are_read_by_their_index_or_folder(tmp_path, ending):
    index = tmp_path / shards(tmp_path, ending)
    for path in (index, tmp_path):
        found = read_checkpoint(path)
        assert found.state.keys() == STATE.keys() and found.path == path
        assert all(torch.equal(found.state[k], t) for k, t in STATE.items())
        assert [f.name for f in found.files][0] == index.name and len(found.files) == 3
    first, second = files_of(index)[1:]
    write({"other": torch.ones(1)}, second)
    with pytest.raises(ValueError, match=f"{second.name} has no b.bias, which {index.name} says"):
        read_checkpoint(index)
    second.unlink()
    with pytest.raises(ValueError, match=rf"index.json: 1 of 2 shards missing: {second.name}$"):
        read_checkpoint(tmp_path)
    second.write_bytes(POINTER)
    with pytest.raises(ValueError, match=f"{second.name} is a Git LFS pointer"):
        read_checkpoint(tmp_path)
    assert first.is_file()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "is not the index of a sharded checkpoint: it has no 'weight_map'"),
        ('{"weight_map": {}}', "shards must be files beside it, got nothing"),
        ('{"weight_map": {"a": "../x.pt"}}', r"shards must be files beside it, got \.\./x.pt"),
        ('{"weight_map": {"a": 3}}', "is not the index of a sharded checkpoint"),
        (POINTER.decode(), "is a Git LFS pointer"),
        ("", "is empty"),
        ("nothing", "is text, not a checkpoint: 'nothing'"),
    ],
)
def test_an_index_that_is_none(tmp_path, content, words):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"index.json:? {words}"):
        read_checkpoint(path)


def test_folders(tmp_path):
    def refused(words: str, *names: str) -> None:
        folder = tmp_path / f"f{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}")
        with pytest.raises(ValueError, match=f"^{folder} {words}"):
            read_checkpoint(folder)

    refused("is an empty folder")
    refused(r"is a folder; give a file in it \(it has a, b\)", "b", "a")
    refused("is a pipeline, or a part of one", "pipeline.json", "model.safetensors")
    refused("is a folder of torch.distributed", ".metadata", "__0_0.distcp")
    refused("is a folder of TensorFlow", "saved_model.pb")
    refused("holds several checkpoints; give one of a.index.j", "a.index.json", "b.index.json")
    save_module(build(VQGAN, vqgan.tiny()), tmp_path / "ours")
    with pytest.raises(ValueError, match="ours is a pipeline, or a part of one, of smalti alr"):
        read_checkpoint(tmp_path / "ours")
    single = tmp_path / "one"
    single.mkdir()
    write(STATE, single / "pytorch_model.bin")
    (single / "config.json").write_text('{"model_type": "var"}')
    assert read_checkpoint(single).state.keys() == STATE.keys()


@pytest.mark.parametrize("old", [False, True])
def test_numbers_of_numpy_are_read(tmp_path, old):
    measures = {
        "loss": np.float64(0.25), "step": np.int64(7), "best": np.bool_(True),
        "dtype": np.dtype("float32"), "history": np.arange(3.0), "name": np.str_("x"),
    }  # fmt: skip
    path = write({"state_dict": STATE, "measures": measures}, tmp_path / "x.ckpt", old)
    assert read_checkpoint(path).state.keys() == STATE.keys()
    numpy_1 = path.read_bytes().replace(b"numpy._core.", b"numpy.core.")
    if old:  # in a zip archive the sums of bytes would be others
        path.write_bytes(numpy_1)
        assert read_checkpoint(path).state.keys() == STATE.keys()


def test_objects_in_arrays_of_numpy_are_not(tmp_path):
    path = write({"model": STATE, "x": np.array([{}], dtype=object)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="x.pt is (refused|damaged)"):
        read_checkpoint(path)


def test_files_have_as_much_of_their_path_as_tells_them_apart(tmp_path):
    places = ("a/x/model.bin", "b/x/model.bin", "c/model.bin", "one.bin")
    paths = [tmp_path / place for place in places]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([i]))
    found = hashes(*paths, paths[0])
    assert tuple(found) == places
    assert len(set(found.values())) == 4
