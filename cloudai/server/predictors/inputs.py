"""The bytes of a request as the values that a predictor gets."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import msgspec

from cloudai.server.workers.wire import Item
from cloudai.types._base import invalid


def decode_inputs(item: Item) -> list[Any]:
    """The inputs as the handler gets them: JSON values; for CSV one list of numbers and texts a
    row, or one object where the content type says ``header=present``; for NumPy's format one
    array a row; for an image one uint8 array of height × width × channels.

    Raises InvalidRequest for what cannot be read.
    """
    try:
        if item.kind == "json":
            return msgspec.json.decode(item.inputs, type=list[Any])
        if item.kind == "lines":
            return [msgspec.json.decode(line) for line in item.inputs.split(b"\n") if line.strip()]
        if item.kind == "csv":
            return _csv(item.inputs.decode(), "header=present" in item.content_type)
        if item.kind == "npy":
            import numpy as np

            return list(np.load(io.BytesIO(item.inputs), allow_pickle=False))
        if item.kind == "image":
            return [_image(item.inputs)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("inputs", None, f"cannot be read: {error}") from None
    except Exception as error:  # noqa: BLE001 (csv, numpy and Pillow raise many kinds)
        raise invalid("inputs", None, f"cannot be read as {item.kind}: {error}") from None
    raise invalid("inputs", item.kind, "is not a kind of input that a handler takes")


def decode_params(params: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(params, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid("params", None, f"cannot be read: {error}") from None


def _csv(text: str, header: bool) -> list[Any]:
    rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    if not header:
        return [[_cell(cell) for cell in row] for row in rows]
    if not rows:
        return []
    names, *rest = rows
    for number, row in enumerate(rest, start=2):
        if len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} cells for {len(names)} names")
    return [dict(zip(names, map(_cell, row), strict=True)) for row in rest]


def _cell(cell: str) -> float | int | str:
    try:
        number = float(cell)
    except ValueError:
        return cell
    if not math.isfinite(number):
        return cell
    return int(cell) if cell.lstrip("+-").isdigit() and len(cell) < 19 else number


# A picture of a few kilobytes can claim gigabytes; 50 million pixels are 150 MB as uint8 RGB.
_MAX_PIXELS = 50_000_000


def _image(data: bytes) -> Any:
    import numpy as np
    from PIL import Image as Picture

    with Picture.open(io.BytesIO(data), formats=("PNG", "JPEG", "GIF", "WEBP", "BMP")) as picture:
        if picture.width * picture.height > _MAX_PIXELS:
            raise ValueError(
                f"{picture.width} × {picture.height} pixels are more than {_MAX_PIXELS}"
            )
        return np.asarray(picture.convert("L" if picture.mode in {"1", "L"} else "RGB"))
