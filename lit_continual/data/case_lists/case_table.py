"""Cases of a CSV table."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_continual.files.whole_files import explaining, read_text


def read_table(path: Path) -> list[Mapping[str, Any]]:
    """Read the columns ``image``, or ``image_0``, ``image_1``, … as channels, ``label``, and further keys.

    Raises:
        ValueError: If it is no table, or has no images.
    """
    with explaining(f"{path} is not a CSV table in UTF-8", "Save it as one.", csv.Error, ValueError):
        text = io.StringIO(read_text(path).removeprefix("\ufeff"), newline="")
        rows = list(csv.DictReader(text, strict=True))
    columns = list(rows[0]) if rows else []
    channels = sorted((c for c in columns if re.fullmatch(r"image_\d+", c or "")), key=lambda c: int(c[6:]))
    if rows and not channels and "image" not in columns:
        raise ValueError(f"{path} has the columns {columns}, and none is `image`. Name one so, or image_0, image_1, ….")
    for i, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"Row {i} of {path} has more or fewer fields than the header. Quote commas in its fields.")
    keys = [c for c in columns if c not in channels]
    return [{**{c: row[c] for c in keys}, "image": [row[c] for c in channels] or row["image"]} for row in rows]
