"""The projects whose released files smalti reads, by the names that `smalti convert` takes."""

from smalti.interop.project import Project
from smalti.interop.projects import llamagen, mar, maskgit_vqgan, rar, var

PROJECTS: dict[str, Project] = {
    "llamagen": llamagen.PROJECT,
    "mar": mar.PROJECT,
    "maskgit-vqgan": maskgit_vqgan.PROJECT,
    "rar": rar.PROJECT,
    "var": var.PROJECT,
}


FILES = """
A FILE is a checkpoint of torch (.pt, .pth, .bin, .ckpt), a .safetensors file, or the index of a
checkpoint in shards (.index.json) or its folder. Nothing that is in it is run. What is on the hub
needs no command: smalti sample OWNER/NAME/FILE converts it once and keeps it.

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
            lines.append(f"  {'':14} on the hub: {repo}/{published.models[0]}, ...")
    return "\n".join(lines) + "\n" + FILES
