"""HTML pages of one look that hold everything they show."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

import lit_continual
from lit_continual.reports.figures import DPI

HERE = Path(__file__).parent


def render(template: str, folder: Path = HERE, /, **values: Any) -> str:
    """Fill in a template of a folder, which may extend one of this room.

    The filter ``soft`` lets a name break after an underscore.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["soft"] = lambda name: Markup(str(escape(name)).replace("_", "_<wbr>"))
    return environment.get_template(template).render(version=lit_continual.__version__, **values)


def picture(png: bytes) -> dict[str, Any]:
    """A PNG file as the ``source`` of an image in a page, and its ``width`` there."""
    pixels = int.from_bytes(png[16:20], "big")  # the width, in every PNG's first chunk
    return {"source": f"data:image/png;base64,{base64.b64encode(png).decode()}", "width": pixels * 96 // DPI}
