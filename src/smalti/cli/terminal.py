"""Pictures in terminals that can show them: by the protocol of iTerm and WezTerm, or of kitty."""

from __future__ import annotations

import base64
import io
import os
import sys
from typing import Any

CHUNK = 4096
"""Bytes of a part, as kitty's protocol wants them."""


def shown(image: Any, least: int = 256) -> str:
    """What a terminal prints to show a PIL image, enlarged to about `least` pixels; "" where the
    output is none that can."""
    kind = protocol()
    if not kind or not sys.stdout.isatty():
        return ""
    zoom = max(1, least // image.width)
    buffer = io.BytesIO()
    image.resize((image.width * zoom, image.height * zoom), 0).save(buffer, "PNG")
    return escaped(buffer.getvalue(), kind)


def protocol() -> str:
    """Which protocol the terminal has: "kitty", "iterm" or ""."""
    if os.environ.get("KITTY_WINDOW_ID") or "kitty" in os.environ.get("TERM", ""):
        return "kitty"
    return "iterm" if os.environ.get("TERM_PROGRAM") in ("iTerm.app", "WezTerm") else ""


def escaped(png: bytes, kind: str) -> str:
    """The bytes of a PNG as a protocol writes them."""
    data = base64.b64encode(png).decode()
    if kind == "iterm":
        return f"\033]1337;File=inline=1;size={len(png)}:{data}\a"
    parts = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    last = len(parts) - 1
    begin = ["a=T,f=100,"] + [""] * last
    return "".join(
        f"\033_G{first}m={int(i < last)};{part}\033\\"
        for i, (first, part) in enumerate(zip(begin, parts, strict=True))
    )
