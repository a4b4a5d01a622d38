"""The Space: its files fit each other, and its page draws."""

import importlib.util
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from builders import pipeline

FOLDER = Path(__file__).parents[2] / "integrations" / "space"


def test_its_files_fit_each_other():
    _, head, _ = (FOLDER / "README.md").read_text().split("---\n", 2)
    about = yaml.safe_load(head)
    assert about["sdk"] == "gradio" and (FOLDER / about["app_file"]).exists()
    assert about["license"] == "apache-2.0" and len(about["short_description"]) <= 60
    wanted = dict(
        re.findall(r"^([\w-]+)(?:==(.*))?$", (FOLDER / "requirements.txt").read_text(), re.M)
    )
    assert wanted == {"gradio": about["sdk_version"], "smalti": ""}
    compile((FOLDER / about["app_file"]).read_text(), "app.py", "exec")


def test_gradio_is_there_alone():
    root = Path(__file__).parents[2]
    assert not [
        p
        for p in (root / "src").rglob("*.py")
        if re.search("^ *(import|from) gradio", p.read_text(), re.M)
    ]
    assert "gradio" not in (root / "pyproject.toml").read_text()


@pytest.mark.slow
def test_the_page_draws(tmp_path, monkeypatch):
    """By Gradio's own client: the last pictures are those of the pipeline."""
    pytest.importorskip("gradio")
    from gradio_client import Client

    pipe = pipeline("var")  # seen after each scale
    pipe.save_pretrained(tmp_path / "p")
    monkeypatch.setenv("PIPELINE", str(tmp_path / "p"))
    monkeypatch.setitem(os.environ, "GRADIO_ANALYTICS_ENABLED", "False")
    spec = importlib.util.spec_from_file_location("space_app", FOLDER / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    _, address, _ = app.demo.launch(prevent_thread_lock=True, quiet=True)
    try:
        client = Client(address, verbose=False)
        job = client.submit("1", 2, 3, 2.0, api_name="/draw")
        found = job.result(timeout=120)
        images = [np.asarray(Image.open(one["image"]).convert("RGB")) for one in found]
        expected = app.pipe([1], n=2, seed=3, guidance=2.0)
        assert len(job.outputs()) > 1  # they grow
        assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(images, expected, strict=True))
    finally:
        app.demo.close()
