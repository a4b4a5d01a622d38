"""Watch a server draw, in a terminal, by OpenAI's own client; or paint a part of a picture anew.

python examples/client.py "Food & Drink" --seed 1 --out food.png
python examples/client.py "Objects" --edit food.png --box 0 0.5 1 1 --out edited.png
"""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import openai
from PIL import Image, ImageDraw

UPPER = "\N{UPPER HALF BLOCK}"


def lines_of(picture: Image.Image, width: int) -> list[str]:
    """A picture as lines of a terminal that has 24 bits of colour, two pixels in a cell."""
    height = round(picture.height * width / picture.width) // 2 * 2
    small, lines = picture.convert("RGB").resize((width, height), Image.Resampling.BOX), []
    for y in range(0, height, 2):
        line, before = "", None
        for x in range(width):
            both = (*small.getpixel((x, y)), *small.getpixel((x, y + 1)))
            if both != before:
                line += "\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*both)
            line, before = line + UPPER, both
        lines.append(line + "\x1b[0m")
    return lines


def show(events: Iterable[Any], width: int) -> bytes:
    """Show the pictures of a stream side by side as they come; the last one's file."""
    left, data = 0, b""
    for event in events:
        data = base64.b64decode(event.b64_json)
        lines = lines_of(Image.open(io.BytesIO(data)), width)
        if left:
            print(f"\x1b[{len(lines)}A", end="")
        for line in lines:
            print(f"\x1b[{left}C{line}" if left else line)
        left += width + 2
    return data


def mask_of(picture: Image.Image, box: Sequence[float]) -> bytes:
    """A mask that is transparent, so painted anew, in a box of fractions of a picture."""
    mask, data = Image.new("RGBA", picture.size, "black"), io.BytesIO()
    sides = [round(part * side) for part, side in zip(box, picture.size * 2, strict=True)]
    ImageDraw.Draw(mask).rectangle((sides[0], sides[1], sides[2] - 1, sides[3] - 1), (0, 0, 0, 0))
    mask.save(data, "PNG")
    return data.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", help="a text, or a class's name")
    parser.add_argument("--server", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--edit", type=Path, help="a picture of which a box is painted anew")
    parser.add_argument("--box", type=float, nargs=4, default=(0, 0.5, 1, 1), help="fractions")
    parser.add_argument("--width", type=int, default=32, help="letters of a picture")
    parser.add_argument("--out", type=Path, default=Path("drawn.png"))
    args = parser.parse_args(arguments)

    client = openai.OpenAI(base_url=args.server, api_key="any")
    how = {"prompt": args.prompt, "stream": True, "partial_images": 3}
    how["extra_body"] = {"seed": args.seed}
    if args.edit is None:
        events = client.images.generate(**how)
    else:
        mask = mask_of(Image.open(args.edit), args.box)
        how["extra_body"]["keep_pixels"] = True
        events = client.images.edit(image=args.edit, mask=mask, **how)
    args.out.write_bytes(show(events, args.width))
    print(args.out)


if __name__ == "__main__":
    main()
