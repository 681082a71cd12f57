"""A model's layers, compiled while the model answers already.

One layer's code is compiled and serves all of them, in seconds instead of minutes: once for a
single text, whose products are sums that read weights as fast as memory gives them, and once for
any number of texts. What was compiled is kept in a folder for the next start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

import torch

_log: Final = logging.getLogger("cloudai")
_SWITCH: Final = 0.0005
"""Seconds after which the thread that compiles lets another one run; usually 0.005."""
_ALONE: Final = {
    "coordinate_descent_tuning": True,
    "max_autotune": True,
    "realize_opcount_threshold": 8,
}
"""For one text products become sums with the first, and are tuned with the second; with the third
what goes into them is computed once, and not again for each sum."""


class Compiled:
    """The layers of a model, as they are and compiled.

    Parameters
    ----------
    model: of transformers. folder: where what was compiled is kept.
    """

    def __init__(self, model: Any, folder: Path | None) -> None:
        if folder is not None:
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
        self._chosen = threading.local()
        self._ready: set[str] = set()
        self._news = False
        self._thread: threading.Thread | None = None
        self._made: dict[tuple[str, type], Any] = {}
        self._modules = _repeated(model)
        for module in self._modules:
            module.forward = self._either(module, module.forward)

    def start(self, run: Callable[[str, int], None]) -> None:
        """Begins in the background, once. ``run`` makes a step of a kind for so many tokens,
        which belong to nobody."""
        if self._thread is None and self._modules:
            self._thread = threading.Thread(
                target=self._compile, args=(run,), daemon=True, name="compile"
            )
            self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Waits until all is compiled, for measurements; False: it is not yet."""
        if self._thread is None:
            return False
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether something is being compiled."""
        return self._thread is not None and self._thread.is_alive()

    def news(self) -> bool:
        """Whether something has been compiled since the last time."""
        news, self._news = self._news, False
        return news

    @contextlib.contextmanager
    def use(self, kind: str) -> Generator[None]:
        """In this thread, layers run compiled for that kind of step, if they are: ``one`` text,
        ``many``, or ``rows`` of any tokens."""
        if kind in self._ready:
            self._chosen.kind = kind
        try:
            yield
        finally:
            self._chosen.kind = None

    def _either(self, module: Any, plain: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            kind = getattr(self._chosen, "kind", None)
            if kind is None:
                return plain(*args, **kwargs)
            return self._of(kind, type(module))(module, *args, **kwargs)

        return forward

    def _of(self, kind: str, layer: type) -> Any:
        key = kind, layer
        if key not in self._made:
            code: Any = layer.forward  # pyright: ignore[reportAttributeAccessIssue]
            self._made[key] = (
                torch.compile(code, options=dict(_ALONE))
                if kind == "one"
                else torch.compile(code, dynamic=True)
            )
        return self._made[key]

    def _compile(self, run: Callable[[str, int], None]) -> None:
        import torch._dynamo.config as dynamo

        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        try:
            # A layer's number is an attribute of its, and the code the same for all.
            dynamo.allow_unspec_int_on_nn_module = True
            dynamo.recompile_limit = max(dynamo.recompile_limit, 16)
            for kind, counts in (("one", (1, 1)), ("many", (8, 24)), ("rows", (64, 256))):
                self._chosen.kind = kind
                for count in counts:
                    run(kind, count)
                self._ready.add(kind)
                self._news = True
        except Exception as error:  # noqa: BLE001  (it runs without as well)
            _log.warning("the model is not compiled: %s: %s", type(error).__name__, error)
        finally:
            self._chosen.kind = None
            sys.setswitchinterval(interval)


def _repeated(model: Any) -> list[Any]:
    """The decoder layers, the norm after them and the head."""
    base = model.base_model
    layers = getattr(base, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        return []
    after = [getattr(base, "norm", None), model.get_output_embeddings()]
    return [*layers, *(module for module in after if isinstance(module, torch.nn.Module))]
