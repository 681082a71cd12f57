"""What a provider tells the suite about itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import msgspec

from cloudai.client import AsyncClient, Client
from cloudai.types import BatchTransform, Metric, TrainingJob

ASSETS: Final = Path(__file__).parent / "assets"


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a training job of the suite is to do.

    Parameters
    ----------
    seconds: how long it works. exit_code: what it ends with. scale: of the model it makes.
    """

    seconds: float = 0.0
    exit_code: int = 0
    scale: int = 2


class Faults(Protocol):
    """Makes the provider's service misbehave. Operations are called as the client's:
    ``"chat.create"``, ``"chat.stream"``, ``"embeddings.create"``, ``"training.submit"``,
    ``"endpoints.deploy"``, ``"endpoints.predict"``, ``"batch.submit"``."""

    def throttle(self, operation: str, *, times: int, retry_after: float) -> object:
        """The next ``times`` calls are rate-limited."""
        ...

    def fail(self, operation: str, *, times: int) -> object:
        """The next ``times`` calls meet a service that is unavailable (HTTP 503)."""
        ...

    def lose_reply(self, operation: str) -> object:
        """The next call takes effect, and its reply is lost."""
        ...

    def cut_stream(self, chunks: int) -> object:
        """The next stream breaks off after so many chunks, without its end."""
        ...


class Harness:
    """A provider as the suite sees it. Subclass it, set what differs, override what must.

    One is made for each test, with an empty folder of its own.

    Attributes
    ----------
    provider: the registered name.
    gaps: what this provider cannot do: ``"capability:test"`` or ``"capability:feature"`` → the
        reason. Such a test must fail; one that passes is an error, so that gaps close.
    requires: modules without which its tests are skipped.
    chat_model, embedding_model: names to pass; None takes the provider's default.
    unknown_model: a name that it does not know.
    prompt: makes the model answer with some ten words or more.
    similar: three texts: the first two closer to each other than to the third.
    overlong: a text longer than the embedding model takes; None where there is no limit.
    patience: seconds that a small job or a deployment may take.
    deterministic: whether temperature 0 gives the same answer twice.
    failure_exit_code: whether the exit code of a failed script is known.
    """

    provider: ClassVar[str]
    gaps: ClassVar[dict[str, str]] = {}
    requires: ClassVar[tuple[str, ...]] = ()
    chat_model: ClassVar[str | None] = None
    embedding_model: ClassVar[str | None] = None
    unknown_model: ClassVar[str] = "there-is-no-such-model"
    prompt: ClassVar[str] = "Count from one to twenty in words, all on one line, with commas."
    similar: ClassVar[tuple[str, str, str]] = (
        "A cat sleeps on the warm roof.",
        "A cat naps on the warm roof.",
        "Interest rates rose by two percent in the third quarter.",
    )
    overlong: ClassVar[str | None] = "word " * 20_000
    patience: ClassVar[float] = 60.0
    deterministic: ClassVar[bool] = True
    failure_exit_code: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, capability: str) -> None:
        """Called before each test of a capability; the place to skip what this machine lacks."""

    def keys(self) -> dict[str, Any]:
        """The keys of ``Client(provider=…, **keys)``; values that JSON can hold, since other
        processes get them too."""
        return {}

    def client(self) -> Client:
        """A new client."""
        return Client(provider=self.provider, **self.keys())

    def async_client(self) -> AsyncClient:
        """A new async client."""
        return AsyncClient(provider=self.provider, **self.keys())

    def faults(self) -> Faults | None:
        """What makes the service misbehave; None skips the tests that need it."""
        return None

    def place(self, name: str) -> str:
        """A path or URI where a file of this name can be written by the provider and read by
        ``read``."""
        return str(self.folder / name)

    def put(self, name: str, text: str) -> str:
        """Puts a file where the provider can read it; gives its path or URI."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    def read(self, uri: str) -> str | None:
        """The text at a path or URI; None where nothing is."""
        path = Path(uri)
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def model(self, scale: int = 2, handler: str | None = None) -> str:
        """A model directory, where the provider can read it, with the suite's handler, or with
        this source of one."""
        folder = self.folder / f"model-{scale}-{len(list(self.folder.iterdir()))}"
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(json.dumps({"scale": scale}))
        if handler is None:
            shutil.copy(ASSETS / "handler.py", folder / "handler.py")
        else:
            (folder / "handler.py").write_text(handler)
        return str(folder)

    def job(self, work: Work, **spec: Any) -> TrainingJob:
        """A training job that does this work; ``spec`` are further fields of it."""
        told = {name: value for name, value in msgspec.structs.asdict(work).items() if value}
        made: dict[str, Any] = {
            "source": str(ASSETS),
            "entry": "train.py",
            "hyperparameters": told,
            "hyperparameter_args": False,
            "metrics": (Metric(name="loss", regex=r"loss=([0-9.]+)"),),
            **spec,
        }
        return TrainingJob(**made)

    def slow(self, spec: BatchTransform) -> BatchTransform:
        """The same batch, of some 40 lines in pairs, made to take three seconds; the
        suite's handler sleeps as ``params`` say."""
        return msgspec.structs.replace(spec, params={**spec.params, "seconds": 0.08})
