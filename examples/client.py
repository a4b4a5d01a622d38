"""Watch a server draw, or paint a picture's part anew, by OpenAI's client (`pip install openai`).

python examples/client.py "Food & Drink" --seed 1 --out food.png
python examples/client.py "Objects" --edit food.png --box 0 0.5 1 1 --out edited.png
"""

import argparse
import base64
import io
from pathlib import Path

import openai
from PIL import Image

UPPER = "\N{UPPER HALF BLOCK}"


def lines_of(picture, width):
    """A picture as lines of a terminal that has 24 bits of colour, two pixels in a letter."""
    size = (width, round(picture.height * width / picture.width) // 2 * 2)
    at, letter = picture.resize(size, 4).getpixel, "\x1b[38;2;{};{};{};48;2;{};{};{}m" + UPPER
    return ["".join(letter.format(*at((x, y)), *at((x, y + 1))) for x in range(width)) + "\x1b[0m"
            for y in range(0, size[1], 2)]  # fmt: skip


def show(events, width):
    """Show the pictures of a stream side by side as they come; the last one's file."""
    for i, event in enumerate(events):
        data = base64.b64decode(event.b64_json)
        lines = lines_of(Image.open(io.BytesIO(data)).convert("RGB"), width)
        print(f"\x1b[{len(lines)}A" * (i > 0), end="")
        for line in lines:
            print(f"\x1b[{i * (width + 2)}C" * (i > 0) + line)
    return data


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", help="a text, or a class's name")
    parser.add_argument("--server", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--edit", type=Path, help="a picture of which a box is painted anew")
    parser.add_argument("--box", type=float, nargs=4, default=(0, 0.5, 1, 1), help="fractions")
    parser.add_argument("--width", type=int, default=32, help="letters of a picture")
    parser.add_argument("--out", type=Path, default=Path("drawn.png"))
    args = parser.parse_args(arguments)
    images = openai.OpenAI(base_url=args.server, api_key="any").images
    body = {"seed": args.seed} | ({} if args.edit is None else {"keep_pixels": True})
    draw, how = images.generate, {"stream": True, "partial_images": 3, "extra_body": body}
    if args.edit is not None:
        painted, mask = Image.new("RGBA", Image.open(args.edit).size, "black"), io.BytesIO()
        clear = [round(a * b) for a, b in zip(args.box, painted.size * 2, strict=True)]
        painted.paste((0, 0, 0, 0), tuple(clear))  # transparent is painted anew
        painted.save(mask, "PNG")
        draw, how = images.edit, how | {"image": args.edit, "mask": mask.getvalue()}
    args.out.write_bytes(show(draw(prompt=args.prompt, **how), args.width))


if __name__ == "__main__":
    main()
