"""The projects whose released files `smalti convert` takes: a file for each, with its `PROJECT`.

A new file needs no line here.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from smalti.interop.project import Project

PROJECTS: dict[str, Project] = {
    file.name.replace("_", "-"): import_module(f"{__name__}.{file.name}").PROJECT
    for file in pkgutil.iter_modules(__path__)
}
"""By the word that `smalti convert` takes."""


FILES = """
A FILE is a checkpoint of torch (.pt, .pth, .bin, .ckpt), a .safetensors file, or the index of a
checkpoint in shards (.index.json) or its folder. Nothing that is in it is run. What is on the hub
needs no command: smalti sample OWNER/NAME/FILE converts it once and keeps it, and so does
--tokenizer OWNER/NAME/FILE with a tokenizer.

smalti convert PROJECT --help shows every option."""


def overview() -> str:
    """What `smalti convert --help` prints."""
    lines = [
        "usage: smalti convert PROJECT --tokenizer FILE [--model FILE] --out DIR [options]",
        "\nMake a pipeline of files that a project released, or its tokenizer alone.\n\nprojects:",
    ]
    for name, project in PROJECTS.items():
        words = (project.options.__doc__ or "").splitlines()[0].partition(";")[0]
        lines.append(f"  {name:14} {words}")
        for repo, published in project.repositories.items():
            first, *others = published.models or published.tokenizers
            more = ", ..." if others or published.models else ""
            lines.append(f"  {'':14} on the hub: {repo}/{first}{more}")
    return "\n".join(lines) + "\n" + FILES
