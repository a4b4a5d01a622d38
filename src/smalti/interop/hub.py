"""Released weights on the Hugging Face hub: downloaded, converted once, and kept.

    smalti.load("FoundationVision/LlamaGen/c2i_B_256.pt")

An id is OWNER/NAME/MODEL, or OWNER/NAME/MODEL+TOKENIZER for another tokenizer than the one that the
model learned. A mirror may hold the model; its tokenizer comes from where the project keeps it.
OWNER/NAME/TOKENIZER is a tokenizer alone, wherever one is asked for. What is made of them is kept
in `smalti/` of the hub's cache folder (HF_HOME), by the commit of the repository.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.utils import WeakFileLock

from smalti.config import no_such
from smalti.data.hub_rows import reason
from smalti.interop.convert import convert
from smalti.interop.pickles import SINGLE
from smalti.interop.project import Project
from smalti.interop.projects import PROJECTS


class Released(NamedTuple):
    project: Project
    repo: str
    """Where the model is."""
    model: str
    """"" of a tokenizer alone."""
    home: str
    """Where the tokenizer is."""
    tokenizer: str
    words: str = ""
    """The text tokenizer, in the repository of the model, where it is not in the model's folder."""


def find(text: str) -> Released | None:
    """The released model that an id means, in its repository or, by a name that says what it is, in
    a copy of it, and its tokenizer; None if it means none.

    Raises ValueError naming the models of a repository, or the tokenizers of a model.
    """
    found, files = split(text)
    model, _, tokenizer = files.partition("+")
    among = {
        repo: (project, published)
        for project in PROJECTS.values()
        for repo, published in project.repositories.items()
    }
    if found in among:
        tokenizers, models, *_ = among[found][1]
        if not models:
            raise ValueError(
                f"{found} holds no model, so it is no pipeline: give its tokenizer, "
                f"{found}/{tokenizers[0]}, where a tokenizer is asked for"
            )
        if model not in models:
            ids = ", ".join(f"{found}/{m}" for m in models)
            raise ValueError(f"{found} holds several models, got {text!r}; load one of {ids}")
        repo = found
    else:  # a copy
        holders = [r for r, (_, published) in among.items() if model in published.models]
        if len(holders) != 1 or model in SINGLE:
            return None
        repo = holders[0]
    project, (tokenizers, _, home, learned, words, _) = among[repo]
    if tokenizer and tokenizer not in tokenizers:
        raise ValueError(f"the tokenizer must be one of {', '.join(tokenizers)}, got {tokenizer!r}")
    tokenizer = tokenizer or dict(learned).get(model, tokenizers[0])
    return Released(project, found, model, home or repo, tokenizer, words)


def find_tokenizer(text: str) -> Released | None:
    """The released tokenizer that an id means, without a model; None if it means none."""
    found, file = split(text)
    for project in PROJECTS.values():
        published = project.repositories.get(found)
        if published and not published.home and file in published.tokenizers:
            return Released(project, found, "", found, file)
    return None


def split(text: str) -> tuple[str, str]:
    """The repository of an id, OWNER/NAME, and what is named in it."""
    owner, _, rest = text.partition("/")
    name, _, files = rest.partition("/")
    return f"{owner}/{name}", files


def fetch(released: Released) -> Path:
    """The folder of the pipeline, or of a tokenizer alone; only what is missing is downloaded and
    converted.

    Raises ValueError if a file cannot be had or is not what its name says.
    """
    project, repo, model, home, tokenizer, words = released
    first = model or tokenizer
    path = get(repo, first)
    commit = path.parents[len(Path(first).parts) - 1].name
    folder = Path(constants.HF_HOME) / "smalti" / repo.replace("/", "--") / commit
    folder = folder / "+".join(Path(name).stem for name in (model, tokenizer) if name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder.with_name(folder.name + ".lock")):  # of several processes one converts
        if not (folder / ("pipeline.json" if model else "config.json")).is_file():
            for name in project.repositories[home].beside if home in project.repositories else ():
                get(home, name)
            files = {"model": path, "tokenizer": get(home, tokenizer)} if model else {}
            files |= {"words": get(repo, words)} if words else {}
            options = project.options(**files or {"tokenizer": path})
            convert(project, options, folder, f"{repo} at {commit}")
    return folder


def get(repo: str, name: str) -> Path:
    """A file of a repository, or a folder of shards, whose name has no ending."""
    if Path(name).suffix:
        return ask(f"{repo}/{name}", lambda: hf_hub_download(repo, name))
    shards = [f"{name}/*"]
    return ask(f"{repo}/{name}", lambda: snapshot_download(repo, allow_patterns=shards)) / name


def ask(what: str, get: Callable[[], str]) -> Path:
    """What the hub gives. Raises ValueError in one line if it gives nothing."""
    try:
        return Path(get())
    except Exception as error:  # of the network, the hub, and a dozen kinds of its client
        said = reason(error)
        if said.startswith("the hub"):
            raise ValueError(
                f"{what} is not a folder ({no_such(Path(what))}), and {said}"
            ) from None
        raise ValueError(f"{what} is not a folder, and the hub did not give it: {said}") from None
