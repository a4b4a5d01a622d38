"""Prompts as people give them: checked, read from a file, and measured against an encoder."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smalti.arguments import several
from smalti.text.encoders import TextEncoder


def checked(prompts: Any, what: str = "prompt", empty: bool = False) -> list[str]:
    """One text or several as a list. Raises ValueError for what is no text, and for what is empty
    unless `empty` ones may be among them."""
    return [_checked(prompt, what, empty) for prompt in several(prompts)]


def _checked(prompt: Any, what: str, empty: bool) -> str:
    if not isinstance(prompt, str):
        raise ValueError(f"a {what} must be a text, got {prompt!r}")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"a {what} must be a Unicode text, got {prompt!r}") from None
    if not empty and not prompt.strip():
        raise ValueError(
            f"a {what} must not be empty, got {prompt!r}; guidance 0 draws without any condition"
        )
    return prompt


def read_prompts(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, without the empty ones. Raises ValueError if none is left."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a UTF-8 text: {error}") from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no prompts; write one on each line")
    return found


class Cut(UserWarning):
    """Of a prompt that is not read to its end."""


def warn_of_long(prompts: Sequence[str], encoder: TextEncoder) -> None:
    """Warn of prompts that the encoder does not read to their end."""
    for prompt in dict.fromkeys(prompts):
        if (count := encoder.count(prompt)) > encoder.capacity:
            warnings.warn(
                f"the prompt {prompt[:40]!r}... has {count} tokens; the first "
                f"{encoder.capacity} are used",
                Cut,
                stacklevel=2,
            )


def read_part(prompt: str, encoder: TextEncoder) -> str:
    """What an encoder reads of a prompt: all of it, or the letters that it begins with."""
    lengths = range(len(prompt) + 1)
    most = bisect_right(lengths, encoder.capacity, key=lambda n: encoder.count(prompt[:n]))
    return prompt[: max(0, most - 1)]
