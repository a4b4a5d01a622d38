"""Model cards: what they say, and that a README.md of somebody else is never written over."""

import json

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from builders import pipeline
from smalti.pipeline.card import card_of, is_own, signed

MINE = "# My own words\n"


@pytest.fixture
def pipe():
    made = pipeline("llamagen")
    made.info |= {"source": "hub:me/fruit:train", "credit": "(c) me, CC-BY 4.0"}
    made.info["card"] = {
        "license": "mit",
        "base_model": "me/older",
        "results": [{"metric": "fid", "value": 5.46, "dataset": "ImageNet", "said": "README"}],
    }
    return made


def test_what_a_card_says(pipe):
    text = card_of(pipe, "me/apples", {"Apple": "pictures/0.png"})
    card = ModelCard(text)  # raises for a header that the hub would refuse
    data = card.data
    assert (data.library_name, data.license) == ("smalti", "mit")
    assert data.pipeline_tag == "unconditional-image-generation"
    assert data.base_model == "me/older" and data.datasets == ["me/fruit"]
    assert data.tags == ["smalti", "autoregressive", "llamagen", "vqgan"]
    assert data.to_dict()["widget"] == [{"text": "Apple", "output": {"url": "pictures/0.png"}}]
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("fid", 5.46)
    assert result.metric_name == "fid (README)" and result.dataset_name == "ImageNet"
    for words in (
        'smalti.load("me/apples")',
        pipe.fingerprint,
        "(c) me, CC-BY 4.0",
        "| fid | 5.46",
    ):
        assert words in card.text
    assert is_own(text) and not is_own(text.replace("me/apples", "apples"))


def test_the_three_lines_draw(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / "p")
    text = (tmp_path / "p" / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert len(code.splitlines()) == 3 and (tmp_path / "picture.png").is_file()


def test_a_card_is_renewed_and_what_somebody_wrote_stays(pipe, tmp_path):
    file = tmp_path / "p" / "README.md"
    pipe.save_pretrained(tmp_path / "p")
    pipe.info["card"] = {"license": "apache-2.0"}
    pipe.save_pretrained(tmp_path / "p")
    assert ModelCard(file.read_text()).data.license == "apache-2.0"
    for words in (MINE, file.read_text() + "\nMore of mine.\n", signed("a") + "b"):
        file.write_text(words)
        pipe.save_pretrained(tmp_path / "p")
        assert file.read_text() == words
    told = json.loads((tmp_path / "p" / "pipeline.json").read_text())
    assert told["card"] == {"license": "apache-2.0"}


class Api:
    """The hub, whose repository is a dictionary of files."""

    files: dict

    def __init__(self):
        self.files = Api.files

    def create_repo(self, repo, private, exist_ok):
        pass

    def file_exists(self, repo, name):
        return name in self.files

    def hf_hub_download(self, repo, name):
        return self.files[name]

    def upload_folder(self, repo_id, folder_path):
        found = (f for f in folder_path.rglob("*") if f.is_file())
        self.files |= {f.relative_to(folder_path).as_posix(): f.read_bytes() for f in found}
        return f"https://hub/{repo_id}"


def test_pushed_with_pictures_and_a_report(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    Api.files = {}
    report = {"reference": {"name": "emoji@held"}}
    report["metrics"] = [{"metric": "fwd_500", "value": 3.25, "images": 500}]
    (tmp_path / "a.json").write_text(json.dumps(report))
    names = pipe.classes[1:3]
    pipe.push_to_hub("me/apples", examples=names, report=tmp_path / "a.json")
    card = ModelCard(Api.files["README.md"].decode())
    assert [w["text"] for w in card.data.to_dict()["widget"]] == names
    assert Api.files["pictures/1.png"].startswith(b"\x89PNG")
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_name) == (3.25, "emoji@held")
    assert result.metric_name == "fwd_500 (smalti eval, 500 images)"


def test_a_readme_on_the_hub_stays(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    (tmp_path / "README.md").write_text(MINE)
    Api.files = {"README.md": tmp_path / "README.md"}
    pipe.push_to_hub("me/apples")
    assert Api.files["README.md"] == tmp_path / "README.md" and "pipeline.json" in Api.files
    assert not any(name.startswith("pictures") for name in Api.files)


def test_pipelines_of_texts_are_shown_by_the_classes_that_they_know(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    Api.files = {}
    classes = ["Smileys", "Food", "Flags", "Objects", "Symbols"]
    pipeline("maskbit-text", info={"text_classes": classes}).push_to_hub("me/emoji")
    card = ModelCard(Api.files["README.md"].decode())
    assert [w["text"] for w in card.data.to_dict()["widget"]] == classes[:4]
    assert Api.files["pictures/3.png"].startswith(b"\x89PNG")
