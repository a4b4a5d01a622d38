"""Screenshots of the page of `smalti serve`, for docs/: python benchmarks/page_shots.py PIPELINE

Needs `pip install playwright` and a Chromium of the system's. Writes docs/serve-desktop.png,
docs/serve-mask.png and docs/serve-phone.png; the pictures are those of seed 20, of several classes.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parents[1] / "docs"
DESKTOP = {"viewport": {"width": 1200, "height": 720}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
SEED = "20"


@contextmanager
def served(pipeline: str) -> Iterator[str]:
    """The address of a server of this pipeline."""
    command = [sys.executable, "-m", "smalti", "serve", pipeline, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("serving "))
        yield line.split(" at ")[1].strip()
    finally:
        process.terminate()
        process.communicate()


def draw(page: Page, kind: str, n: int, wait: bool = True) -> None:
    """Have pictures of a class drawn."""
    page.get_by_role("combobox", name="Class").fill(kind)
    page.keyboard.press("Escape")
    page.get_by_label(str(n), exact=True).check(force=True)
    page.get_by_label("Seed").fill(SEED)
    page.get_by_role("button", name="Draw").click()
    if wait:
        finish(page)


def finish(page: Page) -> None:
    page.get_by_role("status").get_by_text("Done.", exact=True).wait_for(timeout=120_000)


def growing(page: Page) -> None:
    """Until much of each picture is there."""
    page.locator("#tiles [data-step='2']").nth(3).wait_for(timeout=120_000)
    page.wait_for_timeout(100)


def desktop(page: Page, classes: list[str]) -> None:
    """Pictures while they are drawn, and a gallery."""
    for kind in classes[:-1]:
        draw(page, kind, 4)
    draw(page, classes[-1], 4, wait=False)
    growing(page)


def mask(page: Page, classes: list[str]) -> None:
    """A mask while it is painted."""
    for kind in classes:
        draw(page, kind, 3)
    page.locator("#gallery button").first.click()
    page.locator("#view-edit").click()
    box = page.locator("#mask").bounding_box()
    assert box is not None
    at = [(0.25, 0.72), (0.4, 0.6), (0.6, 0.62), (0.75, 0.75)]
    for x, y in at:
        page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y, steps=5)
        page.mouse.down()


def phone(page: Page, classes: list[str]) -> None:
    """A page on a phone, some pictures later."""
    for kind in classes:
        draw(page, kind, 4)


def main(pipeline: str) -> None:
    browser_path = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    with served(pipeline) as address, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, take, looks in (
            ("desktop", desktop, DESKTOP),
            ("mask", mask, DESKTOP | {"color_scheme": "dark"}),
            ("phone", phone, PHONE),
        ):
            page = browser.new_context(**looks).new_page()
            page.goto(address)
            page.locator("#order").wait_for()
            page.get_by_role("combobox", name="Class").click()
            classes = [
                text.split("\n")[0] for text in page.locator("#classes li").all_inner_texts()
            ]
            page.keyboard.press("Escape")
            take(page, classes[-1:1:-6] + classes[:1])
            page.screenshot(path=DOCS / f"serve-{name}.png", full_page=name == "mask")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
