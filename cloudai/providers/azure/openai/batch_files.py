"""The input of a batch as files of the service's form, each within its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloudai._core.batches.assemble import sendable, source_of
from cloudai._core.batches.runner import check_paths
from cloudai._core.batches.transforms import chat_request
from cloudai.errors import Conflict, InvalidRequest
from cloudai.providers.azure.openai.wire import batch as wire
from cloudai.types import BatchTransform


def write_parts(
    spec: BatchTransform, folder: Path, url: str, modern: bool, max_lines: int, max_bytes: int
) -> tuple[list[Path], int]:
    """The files, and the number of records. With ``on_error="fail"`` the first bad record raises
    InvalidRequest with its line; else it is left out, and counts.

    Parameters
    ----------
    folder: where the files go. url: what each line asks. modern: see ``_wire.chat.encode``.
    max_lines, max_bytes: of one file.
    """
    _, output = check_paths(spec)
    if output.exists() and not spec.overwrite:
        raise Conflict(
            f"the output {output} exists",
            hint="Use overwrite=True to replace it, or name another output.",
        )
    request = chat_request(spec.chat or "", spec.params)

    def made(index: int, record: Any) -> bytes:
        return wire.line(request, record, index, url, modern)

    parts: list[Path] = []
    lines = size = 0
    file: Any = None
    total = 0
    try:
        for line in sendable(spec, source_of(spec), made):
            total += 1
            if line is None:
                continue
            if file is None or lines >= max_lines or size + len(line) > max_bytes:
                if file is not None:
                    file.close()
                parts.append(folder / f"part-{len(parts)}.jsonl")
                file = parts[-1].open("wb")
                lines = size = 0
            file.write(line)
            lines += 1
            size += len(line)
    finally:
        if file is not None:
            file.close()
    if not parts:
        raise InvalidRequest(
            f"input={spec.input!r} holds no line that can be sent",
            field="input",
            value=spec.input,
            provider="azure",
            hint="Each line is a prompt, or an object with prompt or messages",
        )
    return parts, total
