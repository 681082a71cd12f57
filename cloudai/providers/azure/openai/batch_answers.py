"""The answers of the service's batches: files of any size, kept on disk and found by record."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cloudai._core.batches.assemble import Lookup, source_of
from cloudai._core.batches.transforms import messages
from cloudai.errors import InvalidRequest
from cloudai.protocols import Call
from cloudai.providers.azure.openai import files_api
from cloudai.providers.azure.openai.wire import batch as wire
from cloudai.providers.azure.session import AzureSession
from cloudai.types import BatchTransform


class Answers(Lookup):
    """Looks each record's answer up in the output and error files of its batches.

    Parameters
    ----------
    folder: for the files, which are fetched here; eight bytes a record are held in memory.
    lost: why a record without an answer has none, where a batch of the whole tells.
    """

    def __init__(
        self,
        session: AzureSession,
        spec: BatchTransform,
        batches: Iterable[dict[str, Any]],
        folder: Path,
        lost: str | None,
    ) -> None:
        super().__init__(source_of(spec))
        self._model = spec.chat or ""
        self._lost = lost or "the service gave no answer"
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "answers.jsonl").open("w+b")
        self._places = array("q")
        for batch in batches:
            for name in ("output_file_id", "error_file_id"):
                if batch.get(name):
                    self._fetch(session, str(batch[name]))

    def _fetch(self, session: AzureSession, id: str) -> None:
        begin = self._file.seek(0, 2)
        # A file may take longer than the call that waits for its batch.
        files_api.download(session, id, self._file, Call())
        self._file.seek(begin)
        place = begin
        for line in self._file:
            if line.strip():
                self._note(wire.record_of(line), place)
            place += len(line)
        if self._file.tell() > begin:
            self._file.write(b"\n")  # the last line may have no end

    def _note(self, index: int, place: int) -> None:
        missing = index + 1 - len(self._places)
        if missing > 0:
            self._places.extend([-1] * missing)
        self._places[index] = place

    def answer(self, index: int, record: Any) -> Any:
        messages(record)  # a record that was not sent tells its own error
        place = self._places[index] if index < len(self._places) else -1
        if place < 0:
            raise InvalidRequest(self._lost, provider="azure")
        self._file.seek(place)
        return wire.outcome(self._file.readline(), self._model)

    def close(self) -> None:
        """Closes the file; its folder goes with the output's."""
        self._file.close()


def first_failure(
    session: AzureSession, batches: Iterable[dict[str, Any]], call: Call
) -> str | None:
    """The first record that failed, and why; None where none did."""
    for batch in batches:
        if not batch.get("error_file_id"):
            continue
        failed = wire.results(files_api.content(session, batch["error_file_id"], call))
        for index in sorted(failed):
            try:
                wire.outcome(failed[index], "")
            except InvalidRequest as error:
                return f"record {index + 1}: {error.message}"
    return None
