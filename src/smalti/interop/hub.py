"""Released weights on the Hugging Face hub: downloaded, converted once, and kept.

    smalti.load("FoundationVision/LlamaGen/c2i_B_256.pt")

An id is OWNER/NAME/MODEL, or OWNER/NAME/MODEL+TOKENIZER for another tokenizer than the one that the
model learned. A mirror may hold the model; its tokenizer comes from where the project keeps it.
The pipeline is kept in `smalti/` of the hub's cache folder (HF_HOME), by the commit of the model's
repository.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, hf_hub_download
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
    home: str
    """Where the tokenizer is."""
    tokenizer: str


def find(text: str) -> Released | None:
    """The released files that an id means, in their repository or, by names that say what they are,
    in a copy of it; None if it means none.

    Raises ValueError naming the models of a repository, or the tokenizers of a model.
    """
    owner, _, rest = text.partition("/")
    name, _, files = rest.partition("/")
    model, _, tokenizer = files.partition("+")
    among = {
        repo: (project, published)
        for project in PROJECTS.values()
        for repo, published in project.repositories.items()
    }
    found = f"{owner}/{name}"
    if found in among:
        models = among[found][1].models
        if model not in models:
            ids = ", ".join(f"{found}/{m}" for m in models)
            raise ValueError(f"{found} holds several models, got {text!r}; load one of {ids}")
        repo = found
    else:  # a copy
        holders = [r for r, (_, published) in among.items() if model in published.models]
        if len(holders) != 1 or model in SINGLE:
            return None
        repo = holders[0]
    project, (tokenizers, _, home) = among[repo]
    if tokenizer and tokenizer not in tokenizers:
        raise ValueError(f"the tokenizer must be one of {', '.join(tokenizers)}, got {tokenizer!r}")
    return Released(project, found, model, home or repo, tokenizer or tokenizers[0])


def fetch(released: Released) -> Path:
    """The folder of the pipeline; only what is missing is downloaded and converted.

    Raises ValueError if a file cannot be had or is not what its name says.
    """
    project, repo, name, home, tokenizer = released
    model = ask(f"{repo}/{name}", lambda: hf_hub_download(repo, name))
    commit = model.parent.name
    folder = Path(constants.HF_HOME) / "smalti" / repo.replace("/", "--") / commit
    folder = folder / f"{Path(name).stem}+{Path(tokenizer).stem}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder.with_name(folder.name + ".lock")):  # of several processes one converts
        if not (folder / "pipeline.json").is_file():
            vq = ask(f"{home}/{tokenizer}", lambda: hf_hub_download(home, tokenizer))
            options = project.options(tokenizer=vq, model=model)
            convert(project, options, folder, f"{repo} at {commit}")
    return folder


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
