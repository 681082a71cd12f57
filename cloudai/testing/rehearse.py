"""Rehearsals: what a cloud may do to a job, done to it on this machine first.

``spot`` runs a training job with the local provider, takes its machine away at a random step
(SIGKILL to all its processes, as a reclaimed machine has it), lets it be started anew with the
same checkpoint directory, and tells whether it resumed and came to its end.

Longer than other modules, since the steps of a rehearsal share what they saw of its one job.
"""

from __future__ import annotations

import random
import secrets
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.metrics import MetricPatterns
from cloudai._core.state import processes
from cloudai.client import Client, Job
from cloudai.errors import CloudAIError, InvalidRequest, WaitTimeout
from cloudai.providers.local.jobs import logs
from cloudai.providers.local.jobs.store import Store
from cloudai.types import JobStatus, Outputs, Resources, Retry, Spot, State, TrainingJob
from cloudai.types._base import invalid

TOTALS: Final = (
    ("step", "max_steps"),
    ("step", "steps"),
    ("global_step", "max_steps"),
    ("epoch", "epochs"),
    ("epoch", "num_epochs"),
    ("epoch", "num_train_epochs"),
)
"""A metric that counts, and the hyperparameter that says how far."""

FOUND: Final = (
    ("step", r"(?i)\b(?:global[_ ]?)?step['\"]?\s*[=:]?\s*(\d+)"),
    ("epoch", r"(?i)\bepoch['\"]?\s*[=:]?\s*(\d+(?:\.\d+)?)"),
)
"""How a count is read from the log of a job that names no metric for it."""

TAIL: Final = 15
_LOOK: Final = 0.01


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """How it went.

    Parameters
    ----------
    ok: whether the job resumed and came to its end each time. reason: what happened, in words.
    seed: with it the same steps are chosen again.
    unit: what counts the steps: the metric's name. steps: how many there are.
    chosen: the steps from which on it was to be preempted.
    preempted: the step it had told last, at each preemption. resumed: the first one it told
        after each. repeated: steps that were done twice, in all.
    checkpoints: the files of its checkpoint directory at the end.
    state: of the job at the end. seconds: how long it all took. log_tail: its last lines.
    """

    ok: bool
    reason: str
    seed: int
    unit: str = "step"
    steps: float | None = None
    chosen: tuple[int, ...] = ()
    preempted: tuple[float, ...] = ()
    resumed: tuple[float, ...] = ()
    repeated: float = 0.0
    checkpoints: tuple[str, ...] = ()
    state: State = State.UNKNOWN
    seconds: float = 0.0
    log_tail: tuple[str, ...] = ()


def spot(
    spec: TrainingJob,
    *,
    seed: int | None = None,
    at: int | None = None,
    preemptions: int = 1,
    timeout: float = 3600.0,
    say: Callable[[str], object] = lambda text: None,
) -> Rehearsal:
    """Rehearses the preemption of a job.

    Parameters
    ----------
    spec: the job. It runs on what this machine has: ``resources`` but for ``nproc``, ``outputs``
        and ``native`` are left out.
    seed: of the choice of steps; None draws one. at: the step instead of a random one.
    preemptions: how often the machine is taken away.
    timeout: seconds for each run. say: told what goes on.

    The steps are those that the job's log tells: a metric ``step`` or ``epoch``, or, where the
    spec names none, words such as ``step=12`` or ``Epoch 3``. How many there are is said by a
    hyperparameter (``steps``, ``max_steps``, ``epochs``, …); without one the job runs once
    undisturbed first.

    Raises InvalidRequest for a spec that this machine cannot rehearse, and WaitTimeout.
    """
    if preemptions < 1:
        raise invalid("preemptions", preemptions, "is below 1")
    chosen_seed = secrets.randbits(31) if seed is None else seed
    with (
        tempfile.TemporaryDirectory(prefix="cloudai-rehearsal-") as home,
        Client(provider="local", home=home) as client,
    ):
        run = _Run(client, Path(home), spec, preemptions, timeout, say)
        return run.rehearse(chosen_seed, at)


class _Counter:
    """What counts a job's steps, and where its log tells them."""

    def __init__(self, spec: TrainingJob) -> None:
        named = {metric.name: metric.regex for metric in spec.metrics}
        self.total: float | None = None
        self.choices: list[tuple[str, str]] = []
        for metric, hyperparameter in TOTALS:
            value = spec.hyperparameters.get(hyperparameter)
            if metric in named and isinstance(value, (int, float)) and value > 0:
                self.choices, self.total = [(metric, named[metric])], float(value)
                return
        self.choices = [(name, named[name]) for name, _ in TOTALS if name in named] or list(FOUND)

    def told(self, text: str) -> tuple[str, list[float]]:
        """The count's name, and what the text tells of it."""
        for name, regex in self.choices:
            found = [value for _, value in MetricPatterns([(name, regex)]).values(text)]
            if found:
                # What was found once is the count from then on.
                self.choices = [(name, regex)]
                return name, found
        return self.choices[0][0], []


class _Run:
    def __init__(
        self,
        client: Client,
        home: Path,
        spec: TrainingJob,
        preemptions: int,
        timeout: float,
        say: Callable[[str], object],
    ) -> None:
        self.client, self.home, self.spec = client, home, spec
        self.preemptions, self.timeout, self.say = preemptions, timeout, say
        self.counter = _Counter(spec)
        self.started = time.monotonic()
        self.about: dict[str, Any] = {}
        self._marks: dict[Path, int] = {}

    # -- the rehearsal ----------------------------------------------------------------------

    def rehearse(self, seed: int, at: int | None) -> Rehearsal:
        self.about = {"seed": seed}
        if self.counter.total is None and at is None:
            problem = self._undisturbed()
            if problem is not None:
                return problem
        unit = self.counter.choices[0][0]
        self.about |= {"unit": unit, "steps": self.counter.total}
        steps = self._choose(random.Random(seed), at)  # noqa: S311 - repeatable on purpose
        self.about["chosen"] = steps
        job = self._submit()
        try:
            return self._disturbed(job, steps)
        finally:
            self._end(job)

    def _choose(self, rng: random.Random, at: int | None) -> tuple[int, ...]:
        if at is not None:
            return (at,) * self.preemptions
        total = int(self.counter.total or 0)
        if total < 2:
            unit = self.counter.choices[0][0]
            raise InvalidRequest(
                f"the job has {total} {unit}: there is nothing left to resume after the first",
                field="hyperparameters",
                hint="Let it count more steps, or name a metric that counts finer",
            )
        return tuple(sorted(rng.randint(1, total - 1) for _ in range(self.preemptions)))

    def _undisturbed(self) -> Rehearsal | None:
        """Runs the job to its end, to learn its steps; what is wrong with it, if anything is."""
        self.say("no hyperparameter says how many steps there are: a first run, undisturbed")
        job = self._submit()
        try:
            status = job.wait(self.timeout, check=False)
            text = self._text(job, whole=True)
            if not status.state.succeeded:
                return self._bad(job, f"undisturbed already it ends {_how(status)}", status)
            name, told = self.counter.told(text)
            if len(set(told)) < 2:
                return self._bad(
                    job,
                    "its log does not tell its steps: print a line such as step=12 at each, or "
                    "name a metric step or epoch",
                    status,
                )
            self.counter.total = max(told)
            self.say(f"it has {self.counter.total:g} {name}s")
            return None
        finally:
            self._end(job)

    def _disturbed(self, job: Job, steps: tuple[int, ...]) -> Rehearsal:
        preempted: list[float] = []
        resumed: list[float] = []
        repeated = 0.0
        first: float | None = None
        for count, step in enumerate(steps, 1):
            last, problem = self._until(job, step, preempted[-1] if preempted else None)
            if problem is not None:
                return problem
            if first is None:
                first = self.counter.told(self._text(job, whole=True))[1][0]
            preempted.append(last)
            self.about["preempted"] = tuple(preempted)
            self.say(f"preempted at {self.counter.choices[0][0]} {last:g}")
            marks = self._kill(job, count)
            # What it told between the last look and the kill counts to the life that ended.
            preempted[-1] = last = max(self._steps(job, marks), default=last)
            self.about["preempted"] = tuple(preempted)
            self._marks = marks
            begun, problem = self._next(job, count, step)
            if problem is not None:
                return problem
            if begun <= first:
                return self._bad(
                    job,
                    f"it started from scratch: preempted at {self._at(last)}, it began again at "
                    f"{begun:g}. It wrote {self._listed(job)} and did not read it: load the "
                    "newest file in CLOUDAI_CHECKPOINT_DIR before the first step",
                    resumed=(*resumed, begun),
                )
            resumed.append(begun)
            repeated += max(last - begun + 1, 0)
            self.about |= {"resumed": tuple(resumed), "repeated": repeated}
            self.say(f"resumed at {begun:g}")
        return self._finish(job)

    def _finish(self, job: Job) -> Rehearsal:
        status = job.wait(self.timeout, check=False)
        if not status.state.succeeded:
            return self._bad(job, f"it resumed, and then ended {_how(status)}", status)
        last = max(self._steps(job), default=max(self.about["preempted"]))
        total = self.counter.total
        # Counts from 0 end one below the total.
        if total is not None and last < total - 1:
            return self._bad(job, f"it ended in success at {self._at(last)} already", status)
        times = "once" if self.preemptions == 1 else f"{self.preemptions} times"
        return self._result(
            job, True, f"preempted {times}, it resumed from its checkpoint and completed", status
        )

    def _until(self, job: Job, step: int, past: float | None) -> tuple[float, Rehearsal | None]:
        """Waits until the job has told the step and has a checkpoint from after its first one;
        gives the last step told, or what is wrong."""
        begun: float | None = None
        deadline = time.monotonic() + self.timeout
        while True:
            told = self._steps(job)
            if told and begun is None:
                begun = time.time()
            newest = max((file.stat().st_mtime for file in self._checkpoints(job)), default=0.0)
            # A file's time may be that of the clock's last tick, some milliseconds ago.
            saved = begun is not None and newest >= begun - _LOOK
            if told and max(told) >= step and saved and (past is None or max(told) > past):
                return max(told), None
            status = job.status
            if status.state.done:
                return 0.0, self._too_late(job, status, step)
            if time.monotonic() > deadline:
                raise WaitTimeout(
                    f"the job came to no step {step} with a checkpoint in {self.timeout:g} s",
                    hint="Give the rehearsal a longer timeout, or the job less work",
                )
            time.sleep(_LOOK)

    def _too_late(self, job: Job, status: JobStatus, step: int) -> Rehearsal:
        """Why a job ended before it was preempted."""
        if not status.state.succeeded:
            return self._bad(job, f"before it was preempted it ended {_how(status)}", status)
        told = self.counter.told(self._text(job, whole=True))[1]
        if not told:
            return self._bad(
                job,
                "its log does not tell its steps: print a line such as step=12 at each, or name a "
                "metric step or epoch",
                status,
            )
        if not self._checkpoints(job):
            return self._bad(
                job,
                "it wrote no checkpoint: nothing is in CLOUDAI_CHECKPOINT_DIR, so that a preempted "
                "job starts from scratch",
                status,
            )
        if max(told) < step:
            return self._bad(job, f"it ended at {self._at(max(told))}, before step {step}", status)
        return self._bad(
            job,
            "it ended before it could be preempted: its checkpoint came only with the end, or all "
            "of it took some milliseconds. Write one every few steps",
            status,
        )

    def _next(self, job: Job, count: int, step: int) -> tuple[float, Rehearsal | None]:
        """The first step of the next life."""
        deadline = time.monotonic() + self.timeout
        while True:
            told = self._steps(job)
            status = job.status
            if told and status.restarts >= count:
                return told[0], None
            if status.state.done:
                if status.restarts < count:
                    return 0.0, self._too_late(job, status, step)
                if status.state.succeeded:
                    # All was done: nothing was left to tell.
                    return float(self.about["preempted"][-1]) + 1, None
                return 0.0, self._bad(job, f"started anew it ended {_how(status)}", status)
            if time.monotonic() > deadline:
                raise WaitTimeout(f"started anew it told no step in {self.timeout:g} s")
            time.sleep(_LOOK)

    # -- the job ----------------------------------------------------------------------------

    def _submit(self) -> Job:
        self._marks.clear()
        spec = msgspec.structs.replace(
            self.spec,
            name=None,
            idempotency_key=None,
            resources=Resources(nproc=self.spec.resources.nproc),
            outputs=Outputs(),
            native={},
            spot=Spot(),
            retry=Retry(max=self.preemptions, on=("preempted",)),
        )
        return self.client.training.submit(spec)

    def _folder(self, job: Job) -> Path:
        return self.home / "jobs" / job.native_id

    def _kill(self, job: Job, count: int) -> dict[Path, int]:
        """Takes the machine away: no process of the job's has time for a last word. Gives where
        in its logs the next life begins."""
        store = Store(self.home)
        token = str(store.row(job.native_id)["token"])
        while True:
            processes.send(processes.marked(token), signal.SIGKILL)
            # The supervisor waits a tenth of a second before it starts the job anew.
            marks = {file: file.stat().st_size for file in self._logs(job)}
            if job.state.done or job.status.restarts >= count:
                break
            time.sleep(_LOOK)
        main = self._folder(job) / logs.MAIN
        begin = main.read_bytes().rfind(b"[cloudai] restart ")
        return {**marks, main: begin} if begin >= 0 else marks

    def _logs(self, job: Job) -> list[Path]:
        return [file for file in logs.files(self._folder(job)) if file.exists()]

    def _checkpoints(self, job: Job) -> list[Path]:
        found: list[Path] = []
        for file in sorted((self._folder(job) / "checkpoints").rglob("*")):
            try:
                if file.is_file() and file.stat().st_size:
                    found.append(file)
            except FileNotFoundError:  # renamed meanwhile
                continue
        return found

    def _text(self, job: Job, *, whole: bool = False, to: dict[Path, int] | None = None) -> str:
        texts: list[str] = []
        for file in self._logs(job):
            with file.open("rb") as log:
                begin = 0 if whole else self._marks.get(file, 0)
                log.seek(begin)
                end = to.get(file) if to is not None else None
                text = log.read(-1 if end is None else max(end - begin, 0)).decode(
                    "utf-8", "replace"
                )
            # The last line may be half written; the supervisor's own tell of restarts.
            lines = text[: text.rfind("\n") + 1].splitlines()
            texts += [line for line in lines if not line.startswith("[cloudai] ")]
        return "\n".join(texts)

    def _steps(self, job: Job, to: dict[Path, int] | None = None) -> list[float]:
        """The steps that this life has told."""
        return self.counter.told(self._text(job, to=to))[1]

    def _end(self, job: Job) -> None:
        try:
            job.cancel()
            job.wait(30, check=False)
            job.delete()
        except CloudAIError as error:
            self.say(f"the job could not be removed: {error}")

    # -- what is told -----------------------------------------------------------------------

    def _at(self, step: float) -> str:
        total = self.counter.total
        of = f" of {total:g}" if total is not None else ""
        return f"{self.counter.choices[0][0]} {step:g}{of}"

    def _listed(self, job: Job) -> str:
        names = [file.name for file in self._checkpoints(job)]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def _bad(
        self, job: Job, reason: str, status: JobStatus | None = None, **about: Any
    ) -> Rehearsal:
        return self._result(job, False, reason, status or job.status, **about)

    def _result(
        self, job: Job, ok: bool, reason: str, status: JobStatus, **about: Any
    ) -> Rehearsal:
        folder = self._folder(job) / "checkpoints"
        names = [file.relative_to(folder).as_posix() for file in self._checkpoints(job)]
        made: dict[str, Any] = {**self.about, **about}
        return Rehearsal(
            ok=ok,
            reason=reason,
            checkpoints=tuple(names),
            state=status.state,
            seconds=time.monotonic() - self.started,
            log_tail=tuple(self._text(job, whole=True).splitlines()[-TAIL:]),
            **made,
        )


def _how(status: JobStatus) -> str:
    code = "" if status.exit_code is None else f", exit code {status.exit_code}"
    return f"{status.state}{code}: {status.reason or 'no reason was given'}"
