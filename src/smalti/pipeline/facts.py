"""What a pipeline, a file or a picture says of itself: values of JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""What JSON can hold."""


class Facts(dict[str, Json]):
    """A dictionary that prints one fact a line, long ones cut."""

    def __repr__(self) -> str:
        lines = (f"{name}: {value!r}" for name, value in self.items())
        return "\n".join(line if len(line) <= 100 else f"{line[:97]}..." for line in lines)
