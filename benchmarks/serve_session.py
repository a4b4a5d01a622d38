"""A recorded session with a server, for docs/: python benchmarks/serve_session.py PIPELINE

Types the lines of LINES into a shell in a terminal of its own, as somebody would, and writes what
the terminal was sent as docs/serve-session.cast (asciicast 2, which asciinema plays) and its last
look as docs/serve-session.png. Needs `pip install pyte matplotlib`; matplotlib for its font.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import select
import shutil
import struct
import sys
import tempfile
import termios
import time
from contextlib import suppress
from pathlib import Path

import matplotlib
import pyte
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
COLUMNS, ROWS = 138, 44
LINES = (
    "smalti serve demo/pipeline 2> log & until grep -s serving log; do sleep 1; done",
    'python client.py "Food & Drink" --seed 20 --out food.png',
    'python client.py "Objects" --edit food.png --box 0.5 0 1 1 --seed 2 --out edited.png',
)
READY = "\x1b[?2004h$ "
"""What a shell says that waits for a line."""
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono.ttf")
WIDTH, HEIGHT = 8, 16
"""Pixels of a cell."""
PAPER, INK = "#16181d", "#d7dae0"


class Shell:
    """A shell in a terminal, and what it wrote when."""

    def __init__(self, folder: str) -> None:
        self.began, self.events = time.monotonic(), list[tuple[float, str, str]]()
        self.decoder = codecs.getincrementaldecoder("utf-8")()  # a letter may come in two parts
        self.process, self.place = pty.fork()
        if self.process == 0:
            os.chdir(folder)
            size = struct.pack("HHHH", ROWS, COLUMNS, 0, 0)
            fcntl.ioctl(sys.stdout, termios.TIOCSWINSZ, size)
            os.environ.update(PS1="$ ", TERM="xterm-256color", HISTFILE="", PYTHONUNBUFFERED="1")
            os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i", "+m"])

    def read(self, until: str, still: float = 0.5, seconds: float = 300.0) -> None:
        """Take down what comes until it holds a text, and then nothing for a while."""
        seen, end = "", time.monotonic() + seconds
        while select.select([self.place], [], [], still)[0] or until not in seen:
            if time.monotonic() > end:
                raise TimeoutError(f"the terminal did not say {until!r}, but {seen[-500:]!r}")
            if select.select([self.place], [], [], 0)[0]:
                text = self.decoder.decode(os.read(self.place, 1 << 16))
                self.events.append((time.monotonic() - self.began, "o", text))
                seen += text

    def type(self, line: str) -> None:
        """Type a line, a letter after another."""
        for letter in line:
            os.write(self.place, letter.encode())
            self.read(letter, 0.03)
        os.write(self.place, b"\r")

    def close(self) -> None:
        """Wait until the shell has ended."""
        with suppress(OSError):  # its terminal is gone
            while os.read(self.place, 1 << 16):
                pass
        os.waitpid(self.process, 0)
        os.close(self.place)


def recorded(pipeline: str) -> list[tuple[float, str, str]]:
    """What a terminal was sent, and when, of all lines."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "examples" / "client.py", folder)
        for name, command in (("python", ""), ("smalti", " -m smalti")):
            script = Path(folder, name)
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n')
            script.chmod(0o755)
        Path(folder, "demo").mkdir()
        os.symlink(Path(pipeline).resolve(), Path(folder, "demo", "pipeline"))
        shell = Shell(folder)
        shell.read(READY)
        for line in LINES:
            shell.type(line)
            shell.read(READY)
        os.write(shell.place, b"kill $!; wait; exit\r")
        shell.close()
    return shell.events


def screen_of(events: list[tuple[float, str, str]]) -> pyte.Screen:
    """How the terminal looks in the end."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    for _, _, text in events:
        stream.feed(text)
    return screen


def picture_of(screen: pyte.Screen) -> Image.Image:
    """A terminal as a picture, without its empty lines at the end."""
    used = max(y for y, line in enumerate(screen.display) if line.strip()) + 1
    picture = Image.new("RGB", ((COLUMNS + 2) * WIDTH, (used + 1) * HEIGHT), PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.truetype(str(FONT), 13)
    for y in range(used):
        for x in range(COLUMNS):
            cell, at = screen.buffer[y][x], ((x + 1) * WIDTH, y * HEIGHT + HEIGHT // 2)
            ink, paper = (
                usual if colour == "default" else f"#{colour}"
                for colour, usual in ((cell.fg, INK), (cell.bg, PAPER))
            )
            middle = (at[0] + WIDTH - 1, at[1] + HEIGHT // 2 - 1)
            if paper != PAPER:
                pen.rectangle((*at, middle[0], at[1] + HEIGHT - 1), paper)
            if cell.data == "\N{UPPER HALF BLOCK}":
                pen.rectangle((*at, *middle), ink)
            elif cell.data.strip():
                pen.text(at, cell.data, ink, font)
    return picture


def main() -> None:
    events = recorded(sys.argv[1])
    head = {"version": 2, "width": COLUMNS, "height": ROWS, "idle_time_limit": 2}
    lines = [head, *([round(when, 3), kind, text] for when, kind, text in events)]
    with (ROOT / "docs" / "serve-session.cast").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    picture_of(screen_of(events)).save(ROOT / "docs" / "serve-session.png", optimize=True)


if __name__ == "__main__":
    main()
