"""Files of DALL-E's dVAE: modules that were pickled whole, with classes that nobody has."""

import os
import shutil
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders import build
from smalti.cli.main import main
from smalti.interop.whole import read_modules
from smalti.loading import load_tokenizer
from smalti.tokenizers.dalle_dvae import DalleDVAE, tiny

DVAE = build(DalleDVAE, tiny())


class Conv2d(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self.use_float16, self.device = True, torch.device("cpu")


class Sequence(nn.Sequential):
    pass


def named(parts: dict[str, Any]) -> nn.Module:
    """Modules by names with dots, as modules inside modules."""
    root = Sequence()
    for name, module in parts.items():
        *path, last = name.split(".")
        inner: Any = root
        for step in path:
            if step not in inner._modules:
                inner.add_module(step, Sequence())
            inner = inner._modules[step]
        inner.add_module(last, module)
    root.pool, root.make = nn.MaxPool2d(2), partial(print, "run")  # type: ignore[assignment]
    return root


def half(convs: dict[str, nn.Conv2d], levels: Any) -> dict[str, nn.Module]:
    found = {name: Conv2d(conv.weight, conv.bias) for name, conv in convs.items()}
    for g, level in enumerate(levels, 1):
        for b, block in enumerate(level, 1):
            begin = f"blocks.group_{g}.block_{b}"
            for i, conv in enumerate(block.convs, 1):
                found[f"{begin}.res_path.conv_{i}"] = Conv2d(conv.weight, conv.bias)
            if isinstance(block.skip, nn.Conv2d):
                found[f"{begin}.id_path"] = Conv2d(block.skip.weight, block.skip.bias)
    return found


def official(tokenizer: DalleDVAE) -> dict[str, nn.Module]:
    """The two modules, of which the decoder's first layer has a bias."""
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    ends = {"blocks.input": encoder.conv_in, "blocks.output.conv": encoder.conv_out}
    first = nn.Conv2d(tokenizer.config.vocab, tokenizer.config.dim, 1)
    with torch.no_grad():
        table = tokenizer.quantize.embedding.weight - first.bias
        first.weight.copy_(table.T[..., None, None])
    begins = {"blocks.input": first, "blocks.output.conv": decoder.conv_out}
    return {
        "encoder": named(half(ends, encoder.levels)),
        "decoder": named(half(begins, decoder.levels)),
    }


def write(folder: Path, parts: dict[str, nn.Module], monkeypatch: Any, zipped: bool = True) -> None:
    """Pickle them as classes of a package that is gone afterwards."""
    package = ModuleType("dall_e_gone")
    for kind in (Conv2d, Sequence):
        monkeypatch.setattr(kind, "__module__", "dall_e_gone")
        setattr(package, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "dall_e_gone", package)
    folder.mkdir()
    for name, module in parts.items():
        torch.save(module, folder / f"{name}.pkl", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "dall_e_gone")


@torch.no_grad()
def test_whole_modules_are_converted_without_their_classes(tmp_path, monkeypatch, capsys):
    write(tmp_path / "files", official(DVAE), monkeypatch)
    words = ["convert", "dalle", "--tokenizer", str(tmp_path / "files"), "--size", "16x24"]
    main([*words, "--out", str(tmp_path / "dvae")])
    assert "run" not in capsys.readouterr().out, "nothing in a pickle is called"
    found = load_tokenizer(tmp_path / "dvae", "cpu")
    assert found.size == (16, 24)
    assert found.config == type(DVAE.config)(
        **(vars(DVAE.config) | {"size": (16, 24), "decoder_channels": 4, "decoder_blocks": 1})
    )
    for name, tensor in DVAE.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0, atol=1e-6)
    described = (tmp_path / "dvae" / "config.json").read_text()
    assert "encoder.pkl" in described and "decoder.pkl" in described, "both files have a hash"


class Bad:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_in_a_pickle_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    for call, why in (
        (Bad(os.system, "touch ran"), "is refused: its pickle asks for posix.system"),
        (Bad(open, "ran", "w"), "holds no module of torch, but Held"),
        (Bad(shutil.copy, "files/encoder.pkl", "ran"), "holds no module of torch, but Held"),
    ):
        torch.save(call, tmp_path / "files" / "encoder.pkl")
        with pytest.raises(ValueError, match=rf"encoder\.pkl {why}"):
            read_modules(tmp_path / "files")
        assert not (tmp_path / "ran").exists()


def refused(folder: Path, capsys: Any, option: str = "256") -> str:
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "dalle", "--tokenizer", str(folder), "--size", option, "--out", "out"])
    return capsys.readouterr().err.strip()


def test_files_that_do_not_fit_are_refused_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    parts = official(DVAE)
    write(tmp_path / "half", {"encoder": parts["encoder"]}, monkeypatch)
    assert "it has no decoder.blocks.input.w" in refused(tmp_path / "half", capsys)
    write(tmp_path / "files", parts, monkeypatch)
    assert "--size must be" in refused(tmp_path / "files", capsys, "15")
    alone = refused(tmp_path / "files" / "encoder.pkl", capsys)
    assert "is no such file of dVAE of DALL-E" in alone
    (tmp_path / "files" / "decoder.pkl").write_bytes(b"\x80\x02garbage")
    assert "decoder.pkl is damaged or no checkpoint of torch" in refused(tmp_path / "files", capsys)
    torch.save({"a": 1}, tmp_path / "files" / "decoder.pkl")
    assert "decoder.pkl holds no module of torch, but dict" in refused(tmp_path / "files", capsys)
    other = {"encoder": parts["encoder"], "decoder": official(build(DalleDVAE, other_vocab()))}
    write(tmp_path / "other", {**other, "decoder": other["decoder"]["decoder"]}, monkeypatch)
    assert "encoder and decoder have other numbers of codes" in refused(tmp_path / "other", capsys)
    with pytest.warns(UserWarning, match="Couldn't retrieve source code"):
        write(tmp_path / "old", parts, monkeypatch, zipped=False)
    assert "is a module as torch wrote it before 1.6" in refused(tmp_path / "old", capsys)
    assert not (tmp_path / "out").exists()


def other_vocab() -> Any:
    return type(tiny())(**(vars(tiny()) | {"vocab": 16}))
