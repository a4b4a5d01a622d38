"""Pictures as they are sent: files in base64 or behind an address, one answer or a stream."""

from __future__ import annotations

import base64
import io
import json
import secrets
import threading
import time
from collections import OrderedDict
from typing import Any

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from smalti.pictures import CHUNK
from smalti.serve.orders import Output

TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def file_of(image: Image.Image, output: Output) -> bytes:
    """A picture as a file; a PNG says how it was drawn, as those of `smalti sample` do."""
    data, about = io.BytesIO(), image.info.get("smalti")
    if output.format == "png":
        chunk = PngInfo()
        if about is not None:
            chunk.add_text(CHUNK, json.dumps(about))
        image.save(data, "PNG", pnginfo=chunk, compress_level=1)
    else:
        image.save(data, output.format.upper(), quality=output.compression)
    return data.getvalue()


def fitted(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """A picture of this width and height: resampled, and cut where its shape is another. Of which
    size it was it says under `resampled`."""
    if size is None or image.size == size:
        return image
    found = ImageOps.fit(image, size)
    found.info["resampled"] = f"{image.width}x{image.height}"
    return found


class Store:
    """Files that have an address for a while, in memory. From any thread."""

    def __init__(self, most: int = 256 << 20, seconds: float = 3600.0) -> None:
        self.most, self.seconds = most, seconds
        self._files, self._bytes = OrderedDict[str, tuple[float, str, bytes]](), 0
        self._lock = threading.Lock()

    def put(self, data: bytes, kind: str) -> str:
        """Keep a file; its name, which nobody guesses. The oldest go where there are too many."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._files[name] = (time.monotonic(), kind, data)
            self._bytes += len(data)
            while self._bytes > self.most and len(self._files) > 1:
                _, (_, _, old) = self._files.popitem(last=False)
                self._bytes -= len(old)
        return name

    def get(self, name: str) -> tuple[str, bytes] | None:
        """Type and bytes of a file; None if there is none, or no longer."""
        with self._lock:
            found = self._files.get(name)
            if found is None or time.monotonic() - found[0] > self.seconds:
                return None
            return found[1:]


def datum(image: Image.Image, data: bytes, output: Output, address: str | None) -> dict[str, Any]:
    """A picture in an answer: its file or its address, and how it was drawn."""
    where = {"b64_json": base64.b64encode(data).decode()} if address is None else {"url": address}
    about = image.info.get("smalti", {})
    known = {k: about[k] for k in ("seed", "index") if k in about}
    resampled = {k: v for k, v in image.info.items() if k == "resampled"}
    return where | known | {"smalti": about | resampled}


def usage(tokens: int, positions: int, n: int) -> dict[str, Any]:
    """What was read and drawn: tokens of a prompt, and codes of n pictures."""
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
        "output_tokens": positions * n,
        "total_tokens": tokens + positions * n,
    }


def shape(image: Image.Image, output: Output) -> dict[str, Any]:
    """What answers say of all their pictures."""
    return {
        "background": "opaque",
        "output_format": output.format,
        "quality": "high",
        "size": f"{image.width}x{image.height}",
    }


def event(kind: str, body: dict[str, Any]) -> bytes:
    """One event of a stream."""
    text = json.dumps({"type": kind, "created_at": int(time.time())} | body)
    return f"event: {kind}\ndata: {text}\n\n".encode()
