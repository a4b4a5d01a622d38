"""Models that projects released, by the names that `smalti.load` and the commands take.

`released.csv` has a line for each: its name, the project and the recipe that it belongs to, and
where it is. What a model is stands in its recipe: the configuration, how many parameters that has,
and which FID was published. What is not known of a release is empty. This module needs no torch.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
from pathlib import Path
from typing import NamedTuple


class Release(NamedTuple):
    """A released model, or a released tokenizer alone."""

    name: str
    project: str
    """What `smalti convert` calls the project."""
    recipe: str
    """The recipe that has its configuration; "": its sizes are found in the file alone."""
    file: str
    """OWNER/NAME/FILE on the hub; "": it is not there as a file, or not for everybody."""
    codes: str
    """The recipe of the tokenizer whose codes it learned, where there is one."""
    pixels: str
    """Height and width of the pictures that a model draws."""
    data: str
    """The pictures of training."""
    fid: str
    """The published FID, where it is not the one of the recipe; none: there is none."""
    needs: str
    """The extra of smalti that drawing with it needs."""
    convert: str
    """The options of `smalti convert` for files that are not fetched by name."""

    @property
    def command(self) -> str:
        """The command that makes a folder of files that are here already."""
        return f"smalti convert {self.project} {self.convert} --out {self.name}"

    @property
    def repository(self) -> str:
        """OWNER/NAME on the hub; "" of what is not there."""
        return "/".join(self.file.split("/")[:2])


class Terms(NamedTuple):
    """What all releases of a project have in common; "" is what is not known."""

    licence: str = ""
    """The licences, and of what each is."""
    said: str = ""
    """Who says the FIDs."""


README, APACHE, MIT = "README", "Apache-2.0 (code)", "MIT (code)"
RESEARCH = f"{APACHE}, for research only (weights)"
TERMS = {
    "chameleon": Terms("Chameleon Research License, noncommercial (code and weights)"),
    "dalle": Terms("modified MIT (code)"),
    "dcae": Terms(APACHE),
    "dnd": Terms(said=README),
    "emu3": Terms(APACHE),
    "flamingo": Terms(MIT),
    "hart": Terms(MIT),
    "ibq": Terms(APACHE, README),
    "illume": Terms(APACHE),
    "imagegpt": Terms("modified MIT (code)"),
    "infinity": Terms(MIT, README),
    "janus": Terms("MIT (code), DeepSeek Model License (weights)"),
    "liquid": Terms(MIT),
    "llamagen": Terms(MIT, README),
    "mar": Terms(MIT, README),
    "maskbit": Terms(APACHE, README),
    "maskgit-vqgan": Terms(APACHE, README),
    "meissonic": Terms(APACHE),
    "metamorph": Terms("CC BY-NC (code)"),
    "open-magvit2": Terms(APACHE, README),
    "rar": Terms(RESEARCH, README),
    "rq": Terms("Apache-2.0 (code), CC-BY-NC-SA (weights)", README),
    "show-o": Terms(APACHE),
    "taming": Terms(MIT, README),
    "titok": Terms(RESEARCH, README),
    "unitok": Terms(MIT, README),
    "var": Terms(MIT, README),
    "vila-u": Terms(MIT),
}
"""By project; of one that is not here nothing is known."""
PACKAGES = {"text": "transformers"}
"""The package by which an extra is known to be there."""


@functools.cache
def releases() -> dict[str, Release]:
    """All releases by name, in the order of the file."""
    with open(Path(__file__).with_name("released.csv"), encoding="utf-8", newline="") as file:
        return {row["name"]: Release(**row) for row in csv.DictReader(file)}


def id_of(text: str) -> str:
    """The hub id of a release by its name; any other text as it is.

    Raises ValueError, saying how else to get it, for a release that is not fetched by name.
    """
    found = releases().get(text)
    if found is None:
        return text
    if not found.file:
        raise ValueError(f"{text} is not fetched by name: get its files, then {found.command}")
    return found.file


def of_file(file: str) -> Release | None:
    """The release that is OWNER/NAME/FILE on the hub."""
    return next((r for r in releases().values() if r.file == file), None)


def require_extra(file: str) -> None:
    """Raise ValueError naming the extra that drawing with a released file needs, unless it is
    installed."""
    release = of_file(file)
    package = PACKAGES.get(release.needs) if release is not None else None
    if release is not None and package and importlib.util.find_spec(package) is None:
        raise ValueError(f'{release.name} needs `pip install "smalti[{release.needs}]"`')
