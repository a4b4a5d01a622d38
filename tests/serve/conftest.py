"""Servers that tests ask, and a picture for them."""

from typing import Any

import pytest
from PIL import Image

from builders import pipeline
from servers import Running
from smalti.serve.app import make_app
from smalti.serve.guard import Rules
from smalti.serve.shared import Limits, Shared
from smalti.serve.state import Options, Server


@pytest.fixture(scope="package")
def serve():
    """Makes servers of pipelines, which end with the tests."""
    made = list[Running]()

    def start(
        *names: str, rules: Rules | None = None, options: Options | None = None, **limits: Any
    ) -> Running:
        shared = [Shared(name, pipeline(name), Limits(**limits)) for name in names]
        state = Server(shared, options or Options())
        made.append(Running(state, make_app(state, rules)))
        return made[-1]

    yield start
    for one in made:
        one.stop()


@pytest.fixture(scope="package")
def server(serve):
    """One that all share who change nothing: a model of classes."""
    return serve("llamagen")


@pytest.fixture
def picture() -> Image.Image:
    """One of the size that the pipelines draw, of two colours."""
    image = Image.new("RGB", (16, 16), (200, 40, 40))
    image.paste((20, 60, 220), (0, 0, 8, 16))
    return image
