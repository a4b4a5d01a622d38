"""What benchmarks share: lines that were printed before are read back."""

from pathlib import Path

import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from common import earlier, machine, machines, report


def test_what_was_reported_is_known(tmp_path, capsys):
    report({"case": "vq", "psnr": 20.12345, "fwd": (1.0, [0.5, 1.5])})
    report({"case": "kl", "psnr": 26.0})
    path = tmp_path / "lines.jsonl"
    path.write_text(capsys.readouterr().out)
    rows = earlier([path])
    assert list(rows) == ["vq", "kl"]
    assert rows["vq"] == {"case": "vq", "psnr": 20.12, "fwd": [1.0, [0.5, 1.5]]} | machine()
    assert earlier([]) == {}


def test_rows_of_two_machines_name_both():
    here = machine()
    told = machines([{"case": "vq", "hardware": "another", "threads": 7}, {"case": "kl"}])
    assert told["hardware"] == f"another, {here['hardware']}"
    assert told["threads"] == f"7, {here['threads']}" and told["torch"] == here["torch"]
