"""Batches that the service runs: files up, batches, files down, the output put in order.

The service's own records are the only state: each batch carries the spec in its metadata, so
that any process with the input file can wait for it, go on with parts that had to wait for
quota, and put the output together. Whoever sees the end first does that, under a lock.

Longer than other modules: the steps of a batch share its records at the service.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from cloudai._core.batches.assemble import absolute, mark, publish, unmark
from cloudai._core.batches.spool import exclusive
from cloudai.errors import (
    CloudAIError,
    Conflict,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
)
from cloudai.protocols import Call
from cloudai.providers.azure.openai import deployments, files_api
from cloudai.providers.azure.openai.batch_answers import Answers, first_failure
from cloudai.providers.azure.openai.batch_files import write_parts
from cloudai.providers.azure.openai.wire import batch as wire
from cloudai.providers.azure.openai.wire.endpoints import fine_tuned
from cloudai.providers.azure.session import AzureSession
from cloudai.types import BatchTransform, JobStatus, LogLine, LogPage, NativeRequest, State

logger: Final = logging.getLogger("cloudai")


_OVER: Final = {"failed", "expired", "cancelling", "cancelled"}


class ServiceBatches:
    """``chat`` batches through Azure OpenAI's batch API.

    Attributes
    ----------
    max_lines, max_bytes: of one file. quota_pause: seconds before a part that did not fit into
        the quota is asked for again, while nothing of ours is under way.
    """

    max_lines: int = wire.MAX_LINES
    max_bytes: int = wire.MAX_BYTES
    quota_pause: float = 30.0

    def __init__(self, session: AzureSession) -> None:
        self._session = session
        self._members: dict[str, tuple[str, ...]] = {}
        self._asked: dict[tuple[str, int], float] = {}

    @property
    def url(self) -> str:
        return "/v1/chat/completions" if self._session.api_version is None else "/chat/completions"

    # -- going out -----------------------------------------------------------------------

    def requests(self, spec: BatchTransform) -> tuple[NativeRequest, ...]:
        """What ``submit`` sends. Raises as it does, before it sends anything."""
        prefix = "/openai/v1/" if self._session.api_version is None else "/openai/"
        made: list[NativeRequest] = []
        id = wire.group_id(spec.idempotency_key or "")
        with tempfile.TemporaryDirectory(prefix="cloudai-") as folder:
            parts, lines = self._write_parts(spec, Path(folder))
            for index, path in enumerate(parts):
                about = wire.metadata(spec, id, index, len(parts), lines)
                size = path.stat().st_size
                file = f"<the id of part {index + 1}>"
                upload = {"purpose": "batch", "file": f"part {index + 1}, {size} bytes"}
                made.append(NativeRequest(operation=f"POST {prefix}files", body=upload))
                made.append(
                    NativeRequest(
                        operation=f"POST {prefix}batches", body=wire.body(file, self.url, about)
                    )
                )
        return tuple(made)

    def submit(self, spec: BatchTransform, call: Call) -> str | None:
        """Uploads all parts, and asks for as many batches as the quota takes; ``status`` asks
        for the rest. None, with nothing uploaded, for the deployment of a fine-tuned model,
        which the service does not serve."""
        spec = absolute(spec)
        id = wire.group_id(spec.idempotency_key or "")
        with tempfile.TemporaryDirectory(prefix="cloudai-") as folder:
            parts, lines = self._write_parts(spec, Path(folder))
            with suppress(NotFound):
                known = self._batches(id, call)
                self._check_alive(id, known, call)
                return id
            if fine_tuned(deployments.model(self._session, spec.chat or "", call) or ""):
                return None
            files = [
                files_api.upload(self._session, path, f"{id}-{index}.jsonl", "batch", call)[0]
                for index, path in enumerate(parts)
            ]
        for index, file in enumerate(files):
            about = wire.metadata(spec, id, index, len(files), lines)
            try:
                self._create(id, index, file, about, call)
            except CloudAIError as error:
                if index == 0 and not error.retryable and not error.ambiguous:
                    files_api.discard(self._session, files, call)  # nobody will come back for them
                if index == 0 or not isinstance(error, QuotaExceeded):
                    raise
                logger.info("azure: batch %s: part %d waits for quota", id, index + 1)
                break
        self._once(id, call)
        return id

    def _create(self, id: str, part: int, file: str, about: dict[str, str], call: Call) -> None:
        self._asked[(id, part)] = time.monotonic()
        self._members.pop(id, None)
        files_api.post(self._session, "batches", call, wire.body(file, self.url, about))

    def _once(self, id: str, call: Call) -> None:
        """Cancels what another machine asked for first at the same time: the service takes no
        request token. Of two of one second the id decides, so that all choose the same one."""
        first: dict[int, str] = {}
        for batch in sorted(self._of(id, call), key=lambda one: (one["created_at"], one["id"])):
            if batch["status"] in _OVER:
                continue
            if first.setdefault(wire.part_of(batch)[0], batch["id"]) != batch["id"]:
                files_api.post(self._session, f"batches/{batch['id']}/cancel", call, {})
        self._members.pop(id, None)

    def _of(self, id: str, call: Call) -> list[dict[str, Any]]:
        return [
            batch
            for batch in files_api.listed(self._session, "batches", call)
            if (batch.get("metadata") or {}).get(wire.ID) == id
        ]

    def _write_parts(self, spec: BatchTransform, folder: Path) -> tuple[list[Path], int]:
        modern = self._session.modern
        return write_parts(spec, folder, self.url, modern, self.max_lines, self.max_bytes)

    # -- looking -------------------------------------------------------------------------

    def owner(self, id: str, call: Call) -> str | None:
        """The key in the spec that its first part carries. Raises NotFound."""
        return wire.spec_of(self._batches(id, call)[0]).idempotency_key

    def find(self, key: str, call: Call) -> str | None:
        id = wire.group_id(key)
        return id if self._batches(id, call, missing_ok=True) else None

    def _batches(self, id: str, call: Call, *, missing_ok: bool = False) -> list[dict[str, Any]]:
        """The service's batches of one of ours, the newest of each part, in the parts' order."""
        known = self._members.get(id)
        if known is not None:
            found = [files_api.get(self._session, f"batches/{one}", call) for one in known]
        else:
            found = self._of(id, call)
        if not found and not missing_ok:
            raise NotFound(f"there is no batch {id!r} at {self._session.endpoint}")
        latest: dict[int, dict[str, Any]] = {}
        # The newest first, whatever order the service's list has, and one that was cancelled for
        # another's sake last.
        gone = {"cancelling", "cancelled"}
        for batch in sorted(found, key=lambda one: (one["status"] in gone, -one["created_at"])):
            latest.setdefault(wire.part_of(batch)[0], batch)
        chosen = [latest[part] for part in sorted(latest)]
        self._members[id] = tuple(str(batch["id"]) for batch in chosen)
        return chosen

    def status(self, id: str, call: Call) -> JobStatus:
        """A snapshot; asks for parts that waited for quota, and puts the output together once
        all parts have ended."""
        batches = self._batches(id, call)
        spec = wire.spec_of(batches[0])
        waiting = self._waiting(batches)
        states = [wire.STATES.get(str(batch["status"]), State.UNKNOWN) for batch in batches]
        if waiting and not {State.CANCELLED, State.STOPPING} & set(states):
            self._ask_again(id, spec, batches, waiting, call)
            state = State.RUNNING if State.RUNNING in states else State.QUEUED
            return self._snapshot(id, spec, batches, state, reason="a part waits for quota")
        for state in (State.STOPPING, State.RUNNING, State.STARTING, State.UNKNOWN):
            if state in states:
                return self._snapshot(id, spec, batches, state)
        self._check_alive(id, batches, call)
        return self._ended(id, spec, batches, states, call)

    def _waiting(self, batches: list[dict[str, Any]]) -> set[int]:
        """Parts without a batch, or whose batch did not fit into the quota."""
        parts = wire.part_of(batches[0])[1]
        held: set[int] = set()
        for batch in batches:
            codes = {str(e.get("code", "")).lower() for e in wire.problems(batch)}
            if batch["status"] != "failed" or not codes & wire.OVER_QUOTA:
                held.add(wire.part_of(batch)[0])
        return set(range(parts)) - held

    def _ask_again(
        self,
        id: str,
        spec: BatchTransform,
        batches: list[dict[str, Any]],
        waiting: set[int],
        call: Call,
    ) -> None:
        under_way = any(not wire.STATES[str(b["status"])].done for b in batches)
        part = min(waiting)
        last = self._asked.get((id, part), 0.0)
        if under_way or time.monotonic() - last < self.quota_pause:
            return  # what is under way frees its tokens when it ends
        # Of several who wait for it, one asks; the others see the new batch, or come later.
        with suppress(Conflict), exclusive(mark(spec, id)):
            self._members.pop(id, None)
            batches = self._batches(id, call)
            if part in self._waiting(batches):
                self._ask_for(id, part, batches, call)

    def _ask_for(self, id: str, part: int, batches: list[dict[str, Any]], call: Call) -> None:
        name = f"{id}-{part}.jsonl"
        for file in files_api.listed(self._session, "files", call, purpose="batch"):
            if file.get("filename") == name:
                about = {**batches[0]["metadata"]}
                about[wire.PART] = f"{part}/{wire.part_of(batches[0])[1]}"
                with suppress(QuotaExceeded):
                    self._create(id, part, str(file["id"]), about, call)
                return
        raise NotFound(f"the file {name} of the batch {id} is gone", provider="azure")

    def _check_alive(self, id: str, batches: list[dict[str, Any]], call: Call) -> None:
        # The service cannot delete a batch: one whose input was deleted counts as deleted.
        try:
            files_api.get(self._session, f"files/{batches[0]['input_file_id']}", call)
        except NotFound:
            raise NotFound(f"the batch {id!r} was deleted", provider="azure") from None

    def _snapshot(
        self,
        id: str,
        spec: BatchTransform,
        batches: list[dict[str, Any]],
        state: State,
        **about: Any,
    ) -> JobStatus:
        counts = [batch.get("request_counts") or {} for batch in batches]
        done = sum(c.get("completed", 0) + c.get("failed", 0) for c in counts)
        total = int(batches[0]["metadata"][wire.LINES])
        natives = [str(batch["status"]) for batch in batches]
        ends = [b.get(f"{b['status']}_at") for b in batches]
        ended = [float(at) for at in ends if at] if state.done else []
        made: dict[str, Any] = {
            "progress": (done, total),
            "errors": sum(c.get("failed", 0) for c in counts),
            **about,
        }
        return JobStatus(
            id=id,
            state=state,
            name=spec.name,
            idempotency_key=spec.idempotency_key,
            native_state=", ".join(sorted(set(natives))),
            created_at=float(min(batch["created_at"] for batch in batches)),
            ended_at=max(ended) if ended else None,
            **made,
        )

    # -- the end -------------------------------------------------------------------------

    def _ended(
        self,
        id: str,
        spec: BatchTransform,
        batches: list[dict[str, Any]],
        states: list[State],
        call: Call,
    ) -> JobStatus:
        whys = [
            wire.why(b) for b, state in zip(batches, states, strict=True) if state is State.FAILED
        ]
        if whys and all("not_found" in why for why in whys):
            whys[0] = f"{whys[0]}. {self._existing(spec, call)}"
        # What other parts have is not thrown away where failed records may be.
        if whys and (spec.on_error == "fail" or len(whys) == len(batches)):
            return self._snapshot(id, spec, batches, State.FAILED, reason=whys[0])
        if State.CANCELLED in states:
            return self._snapshot(id, spec, batches, State.CANCELLED, reason="it was cancelled")
        expired = State.EXPIRED in states
        if spec.on_error == "fail":
            failed = first_failure(self._session, batches, call)
            if expired:
                reason = f"the {wire.WINDOW} window closed before all lines had run"
                return self._snapshot(id, spec, batches, State.EXPIRED, reason=reason)
            if failed:
                return self._snapshot(id, spec, batches, State.FAILED, reason=failed)
        lost = f"its part failed: {whys[0]}" if whys else None
        opened: list[Answers] = []

        def answers(folder: Path) -> Answers:
            opened.append(Answers(self._session, spec, batches, folder, lost))
            return opened[0]

        try:
            result = publish(spec, id, answers)
        except Conflict:
            reason = "another process is putting the output together"
            return self._snapshot(id, spec, batches, State.RUNNING, reason=reason)
        finally:
            for one in opened:
                one.close()
        if result.state is State.FAILED:
            return self._snapshot(id, spec, batches, State.FAILED, reason=result.reason)
        state = State.EXPIRED if expired else result.state
        reason = result.reason
        return self._snapshot(
            id,
            spec,
            batches,
            state,
            reason=f"{reason}; {lost}" if reason and lost else reason,
            outputs=result.outputs,
            errors=result.errors,
            progress=(result.lines, result.lines),
        )

    def _existing(self, spec: BatchTransform, call: Call) -> str:
        missing = NotFound("", provider="azure", code="model_not_found")
        told = deployments.explained(missing, self._session, spec.chat or "", call)
        return told.hint or ""

    # -- the rest ------------------------------------------------------------------------

    def logs(self, id: str, cursor: str | None, call: Call) -> LogPage:
        """The states the service's batches went through, with their times. The cursor counts
        lines."""
        lines: list[LogLine] = []
        for batch in self._batches(id, call):
            for name in (
                "created",
                "in_progress",
                "finalizing",
                "completed",
                "failed",
                "expired",
                "cancelled",
            ):
                if batch.get(f"{name}_at"):
                    text = f"{batch['id']}: {name}"
                    lines.append(LogLine(text=text, time=float(batch[f"{name}_at"])))
            lines.extend(
                LogLine(text=f"{batch['id']}: {wire.told(problem)}")
                for problem in wire.problems(batch)
            )
        start = int(cursor or 0)
        return LogPage(lines=tuple(lines[start:]), cursor=str(max(start, len(lines))))

    def cancel(self, id: str, call: Call) -> None:
        for batch in self._batches(id, call):
            if not wire.STATES.get(str(batch["status"]), State.UNKNOWN).done:
                try:
                    files_api.post(self._session, f"batches/{batch['id']}/cancel", call)
                except (Conflict, InvalidRequest):
                    continue  # it ended meanwhile

    def delete(self, id: str, call: Call) -> None:
        """Cancels it and deletes its files; the service keeps its records of batches."""
        batches = self._batches(id, call, missing_ok=True)
        self.cancel(id, call) if batches else None
        for batch in batches:
            for name in ("input_file_id", "output_file_id", "error_file_id"):
                if batch.get(name):
                    files_api.delete_file(self._session, str(batch[name]), call)
        if batches:
            unmark(wire.spec_of(batches[0]), id)
        self._members.pop(id, None)

    def list(self, call: Call) -> Sequence[JobStatus]:
        """Snapshots of all that is there; none of them is gone on with."""
        files = {f["id"] for f in files_api.listed(self._session, "files", call, purpose="batch")}
        groups: dict[str, dict[int, dict[str, Any]]] = {}
        for batch in files_api.listed(self._session, "batches", call):
            id = (batch.get("metadata") or {}).get(wire.ID)
            if id and batch["input_file_id"] in files:
                groups.setdefault(id, {}).setdefault(wire.part_of(batch)[0], batch)
        found: list[JobStatus] = []
        for id, parts in groups.items():
            batches = [parts[part] for part in sorted(parts)]
            states = [wire.STATES.get(str(b["status"]), State.UNKNOWN) for b in batches]
            order = (
                State.STOPPING,
                State.RUNNING,
                State.STARTING,
                State.UNKNOWN,
                State.FAILED,
                State.CANCELLED,
                State.EXPIRED,
                State.SUCCEEDED,
            )
            state = next(one for one in order if one in states)
            snapshot = self._snapshot(id, wire.spec_of(batches[0]), batches, state)
            if state is State.SUCCEEDED and snapshot.errors:
                snapshot = replace(snapshot, state=State.PARTIAL)
            found.append(snapshot)
        return found
