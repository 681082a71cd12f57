"""The bytes of a request as the values that a predictor gets."""

from __future__ import annotations

import csv
import io
import math
from typing import Any, Final

import msgspec

from cloudai.errors import CloudAIError
from cloudai.server.predictors import tensors
from cloudai.server.workers.wire import Item
from cloudai.types._base import invalid

PIXELS: Final = 25_000_000
"""Of an image at most: a picture of a few kilobytes can claim gigabytes, and these are 75 MB."""


def decode_inputs(item: Item, pixels: int = PIXELS) -> list[Any]:
    """The inputs as the handler gets them: JSON values; for CSV one list of numbers and texts a
    row, or one object where the content type says ``header=present``; for NumPy's format one
    array a row; for an image one uint8 array of height × width × channels; for tensors one row
    of each.

    Raises InvalidRequest for what cannot be read.
    """
    try:
        if item.kind == "json":
            return msgspec.json.decode(item.inputs, type=list[Any])
        if item.kind == "lines":
            return [msgspec.json.decode(line) for line in item.inputs.split(b"\n") if line.strip()]
        if item.kind == "csv":
            return _csv(item.inputs, "header=present" in item.content_type)
        if item.kind == "npy":
            import numpy as np

            return list(np.load(io.BytesIO(item.inputs), allow_pickle=False))
        if item.kind == "image":
            return [_image(item.inputs, pixels)]
        if item.kind == "tensors":
            return tensors.rows(item.inputs)
    except CloudAIError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid("inputs", None, f"cannot be read: {error}") from None
    except Exception as error:  # noqa: BLE001 (csv, numpy and Pillow raise many kinds)
        raise invalid("inputs", None, f"cannot be read as {item.kind}: {error}") from None
    raise invalid("inputs", item.kind, "is not a kind of input that a handler takes")


def weight(item: Item) -> int:
    """About how many bytes the item's inputs take once they are decoded."""
    if item.kind != "image":
        return len(item.inputs)
    try:
        with _opened(item.inputs) as picture:
            return 3 * picture.width * picture.height
    except Exception:  # noqa: BLE001 (Pillow raises many kinds; decoding it tells them)
        return 0


def decode_params(params: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(params, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid("params", None, f"cannot be read: {error}") from None


def _csv(data: bytes, header: bool) -> list[Any]:
    # Spreadsheets begin UTF-8 with a mark of its byte order, which belongs to no cell.
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    rows = (row for row in csv.reader(text, strict=True) if row)
    if not header:
        return [[_cell(cell) for cell in row] for row in rows]
    names = next(rows, [])
    made: list[Any] = []
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise ValueError(f"row {number} has {len(row)} cells for {len(names)} names")
        made.append(dict(zip(names, map(_cell, row), strict=True)))
    return made


def _cell(cell: str) -> float | int | str:
    try:
        number = float(cell)
    except ValueError:
        return cell
    if not math.isfinite(number):
        return cell
    # An id of 23 digits is more than a float can tell.
    return int(cell) if cell.lstrip("+-").isdigit() else number


def _opened(data: bytes) -> Any:
    from PIL import Image as Picture

    return Picture.open(io.BytesIO(data), formats=("PNG", "JPEG", "GIF", "WEBP", "BMP"))


def _image(data: bytes, pixels: int) -> Any:
    import numpy as np

    with _opened(data) as picture:
        if picture.width * picture.height > pixels:
            raise ValueError(f"{picture.width} × {picture.height} pixels are more than {pixels}")
        mode = "L" if picture.mode in {"1", "L"} else "RGB"
        return np.asarray(picture if picture.mode == mode else picture.convert(mode))
