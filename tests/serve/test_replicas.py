"""What is refused before several servers are started."""

import importlib.util

import pytest

from smalti.cli.main import main


def refused(capsys, *options: str) -> str:
    with pytest.raises(SystemExit) as found:
        main(["serve", "nowhere", *options])
    assert found.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize("count", ["0", "-1", "2"])
def test_replicas_are_for_ray(capsys, count):
    assert f"--replicas is 1, or more with --ray, got {count}" in refused(
        capsys, "--replicas", count
    )


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_what_is_missing_is_said(capsys):
    assert "ray is missing: pip install 'smalti[ray]'" in refused(capsys, "--ray")


def test_others_need_keys_with_ray_too(capsys):
    assert "give --keys FILE" in refused(capsys, "--ray", "--host", "0.0.0.0")
