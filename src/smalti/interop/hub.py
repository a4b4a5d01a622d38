"""Released weights on the Hugging Face hub: downloaded, converted once, and kept.

    smalti.load("FoundationVision/LlamaGen/c2i_B_256.pt")
    smalti.load("llamagen-b-256")

A name is one of `releases`. An id is OWNER/NAME/MODEL, or OWNER/NAME/MODEL+TOKENIZER for another
tokenizer than the one that the model learned. A mirror may hold the model; its tokenizer comes from
where the project keeps it. OWNER/NAME/TOKENIZER is a tokenizer alone, wherever one is asked for.
What is made of them is kept in `smalti/` of the hub's cache folder (HF_HOME), by the commit of the
repository.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.utils import WeakFileLock

from smalti.config import no_such
from smalti.data.hub_rows import reason
from smalti.interop.convert import convert
from smalti.interop.listing import card_of
from smalti.interop.pickles import SINGLE
from smalti.interop.project import Project
from smalti.interop.projects import PROJECTS
from smalti.interop.releases import id_of, require_extra


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
    """The released model that a name or an id means, in its repository or, by a file whose name
    says what it is, in a copy of it, and its tokenizer; None if it means none.

    Raises ValueError naming the models of a repository, the tokenizers of a model, or the extra
    that a model needs, and as `id_of` does.
    """
    found, files = split(id_of(text))
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
    require_extra(f"{repo}/{model}")
    project, (tokenizers, _, home, learned, words, _) = among[repo]
    if tokenizer and tokenizer not in tokenizers:
        raise ValueError(f"the tokenizer must be one of {', '.join(tokenizers)}, got {tokenizer!r}")
    tokenizer = tokenizer or dict(learned).get(model, tokenizers[0])
    return Released(project, found, model, home or repo, tokenizer, words)


def find_tokenizer(text: str) -> Released | None:
    """The released tokenizer that a name or an id means, without a model; None if it means
    none. Raises ValueError as `id_of` does."""
    found, file = split(id_of(text))
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


def obtain(text: str, released: Released, revision: str | None = None) -> Path:
    """`fetch`, of what a text means; where the text is a name, complaints say which files it is."""
    try:
        return fetch(released, revision)
    except NotGiven as error:
        if "/" in text:
            raise
        files = [f"{released.repo}/{released.model}"] if released.model else []
        files.append(f"{released.home}/{released.tokenizer}")
        raise NotGiven(
            f"{text} is {' with '.join(files)}, which was to be fetched: {error.said}", error.said
        ) from None


def fetch(released: Released, revision: str | None = None) -> Path:
    """The folder of the pipeline, or of a tokenizer alone; only what is missing is downloaded and
    converted. A `revision` is one of the model's repository.

    Raises ValueError if a file cannot be had or is not what its name says.
    """
    project, repo, model, home, tokenizer, words = released
    first = model or tokenizer
    path = get(repo, first, revision)
    commit = path.parents[len(Path(first).parts) - 1].name
    folder = Path(constants.HF_HOME) / "smalti" / repo.replace("/", "--") / commit
    folder = folder / "+".join(Path(name).stem for name in (model, tokenizer) if name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    theirs = revision if home == repo else None
    with WeakFileLock(folder.with_name(folder.name + ".lock")):  # of several processes one converts
        if not (folder / ("pipeline.json" if model else "config.json")).is_file():
            for name in project.repositories[home].beside if home in project.repositories else ():
                get(home, name, theirs)
            files = {"model": path, "tokenizer": get(home, tokenizer, theirs)} if model else {}
            files |= {"words": get(repo, words, revision)} if words else {}
            options = project.options(**files or {"tokenizer": path})
            convert(project, options, folder, f"{repo} at {commit}", card_of(f"{repo}/{model}"))
    return folder


def get(repo: str, name: str, revision: str | None = None) -> Path:
    """A file of a repository, or a folder of shards, whose name has no ending."""
    pinned = pin(revision)
    if Path(name).suffix:
        return ask(f"{repo}/{name}", lambda: hf_hub_download(repo, name, **pinned))
    shards = [f"{name}/*"]
    found = ask(f"{repo}/{name}", lambda: snapshot_download(repo, allow_patterns=shards, **pinned))
    return found / name


def pin(revision: str | None) -> dict[str, Any]:
    """What asks the hub for a branch, a tag or a commit; nothing for its newest."""
    return {} if revision is None else {"revision": revision}


class NotGiven(ValueError):
    """The hub did not give something."""

    def __init__(self, text: str, said: str) -> None:
        super().__init__(text)
        self.said = said
        """Why it did not."""


def ask(what: str, get: Callable[[], str]) -> Path:
    """What the hub gives. Raises `NotGiven` in one line if it gives nothing."""
    try:
        return Path(get())
    except Exception as error:  # of the network, the hub, and a dozen kinds of its client
        said = reason(error)
        its = said if said.startswith("the hub") else f"the hub did not give it: {said}"
        gone = f"{what} is not a folder ({no_such(Path(what))}), and {its}"
        plain = f"{what} is not a folder, and {its}"
        raise NotGiven(gone if said.startswith("the hub") else plain, its) from None
