"""The model card of a pipeline: the README.md that the Hugging Face hub shows and searches.

It is written beside a saved pipeline and renewed with it. A README.md that somebody wrote, or
changed, is left as it is: a card ends with a hash of its own text, by which it is known.
`info["card"]` may hold what smalti cannot know: `license`, `datasets` and `base_model`, as the hub
writes them, `terms`, in words, and `results`, numbers that were published or measured.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from smalti.config import read_json
from smalti.files import expand
from smalti.modules import name_of
from smalti.pictures import save_png
from smalti.progress import say

FILE = "README.md"
MARK = re.compile(r"<!-- card of smalti ([0-9a-f]{16}) -->\n\Z")
PICTURES = 4
"""Pictures of classes that a card shows where nothing else is asked for."""


class Result(TypedDict):
    """A number of a card."""

    metric: str
    value: float
    dataset: str
    """The pictures that it compares with."""
    said: str
    """Where it is from: "README of OWNER/NAME", "smalti eval, 5000 images"."""


def card_of(pipe: Any, name: str, pictures: Mapping[str, str] | None = None) -> str:
    """The text of the card of a pipeline that is loaded by `name`; `pictures` are files in its
    folder, by what they show."""
    from huggingface_hub import ModelCardData

    told: dict[str, Any] = pipe.info.get("card") or {}
    shown = pictures or {}
    systems = [name_of(part) for part in (pipe.model, pipe.tokenizer) if part is not None]
    known = {key: told[key] for key in ("license", "datasets", "base_model") if told.get(key)}
    source = str(pipe.info.get("source", ""))
    if source.startswith("hub:"):
        known.setdefault("datasets", [source.removeprefix("hub:").split(":")[0].split("?")[0]])
    if shown:
        known["widget"] = [{"text": t, "output": {"url": file}} for t, file in shown.items()]
    results: list[Result] = told.get("results") or []
    data = ModelCardData(
        library_name="smalti",
        pipeline_tag=pipe.task,
        tags=list(dict.fromkeys(["smalti", "autoregressive", *systems])),
        model_name=name.rpartition("/")[2],
        eval_results=[_evaluated(r, pipe.task) for r in results] or None,
        **known,
    )
    body = "\n\n".join(filter(None, _body(pipe, name, told, shown, results)))
    return signed(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


def _evaluated(result: Result, task: str) -> Any:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=task,
        dataset_type=re.sub(r"\W+", "-", result["dataset"].lower()) or "unknown",
        dataset_name=result["dataset"] or "unknown",
        metric_type=result["metric"],
        metric_value=result["value"],
        metric_name=f"{result['metric']} ({result['said']})",
    )


def _body(
    pipe: Any,
    name: str,
    told: Mapping[str, Any],
    pictures: Mapping[str, str],
    results: Sequence[Result],
) -> list[str]:
    """The paragraphs below the header."""
    shown = " ".join(f"![{text}]({file})" for text, file in pictures.items())
    table = [f"| {r['metric']} | {r['value']:g} | {r['dataset']} | {r['said']} |" for r in results]
    head = ["| metric | value | pictures | said by |", "|---|---|---|---|"]
    facts = {
        "Trained on": pipe.info.get("source"),
        "Credit": pipe.info.get("credit"),
        "Terms": told.get("terms"),
        "Fingerprint": f"`{pipe.fingerprint}`",
    }
    return [
        f"# {name}",
        shown,
        "A pipeline of smalti, a library of autoregressive image generators:",
        f"```python\nimport smalti\n{pipe.example(name)}\n```",
        "```\n" + repr(pipe) + "\n```",
        "\n".join([*head, *table]) if table else "",
        "\n".join(f"- {what}: {text}" for what, text in facts.items() if text),
    ]


# -- whose a README.md is


def signed(text: str) -> str:
    """A card with the hash by which it is known."""
    return f"{text}\n<!-- card of smalti {_hash(text)} -->\n"


def is_own(text: str) -> bool:
    """Whether a README.md is a card that nobody changed."""
    found = MARK.search(text)
    return found is not None and found[1] == _hash(text[: found.start() - 1])


def renewed(text: str, before: str, after: str) -> str:
    """A card with another fingerprint. What is no card of smalti, or was changed, stays."""
    if not is_own(text):
        return text
    return signed(MARK.sub("", text).removesuffix("\n").replace(before, after))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_card(pipe: Any, folder: Path, target: Path) -> None:
    """Write the card of a pipeline into a `folder` that is being made and becomes `target`, unless
    there is a README.md that smalti did not make."""
    there = target / FILE
    if not there.exists() or is_own(there.read_text(encoding="utf-8", errors="replace")):
        (folder / FILE).write_text(card_of(pipe, target.name), encoding="utf-8")


# -- the hub


def push(
    pipe: Any, repo: str, private: bool, examples: Sequence[Any] | None, report: str | Path | None
) -> str:
    """Upload a pipeline with its card, and return its address. See `push_to_hub`."""
    from huggingface_hub import HfApi

    if report is not None:
        pipe.info["card"] = {**(pipe.info.get("card") or {}), "results": results_of(expand(report))}
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pipeline"
        pipe.save_pretrained(folder)
        if api.file_exists(repo, FILE) and not is_own(
            Path(api.hf_hub_download(repo, FILE)).read_text(encoding="utf-8", errors="replace")
        ):
            say(f"{repo} has a {FILE} that is not of smalti: it stays as it is")
            (folder / FILE).unlink()
        else:
            pictures = _drawn(pipe, folder, examples)
            (folder / FILE).write_text(card_of(pipe, repo, pictures), encoding="utf-8")
        return str(api.upload_folder(repo_id=repo, folder_path=folder))


def _drawn(pipe: Any, folder: Path, examples: Sequence[Any] | None) -> dict[str, str]:
    """Draw a picture of each example into the folder: its file, by what it shows."""
    if examples is None:
        examples = (pipe.classes or list(pipe.wording.classes))[:PICTURES]
    if not examples:
        return {}
    files = dict[str, str]()
    (folder / "pictures").mkdir()
    for i, image in enumerate(pipe(list(examples))):
        files[str(examples[i])] = f"pictures/{i}.png"
        save_png(image, folder / "pictures" / f"{i}.png")
    return files


def results_of(report: Path) -> list[Result]:
    """The numbers of a report of `smalti eval`. Raises ValueError if it is none."""
    told = read_json(report)
    metrics = told.get("metrics")
    if not isinstance(metrics, list):
        raise ValueError(f"{report} is no report of smalti eval: it has no list of metrics")
    name = (told.get("reference") or {}).get("name", "")
    return [
        Result(
            metric=m["metric"],
            value=m["value"],
            dataset=str(name),
            said=f"smalti eval, {m['images']} images",
        )
        for m in metrics
    ]
