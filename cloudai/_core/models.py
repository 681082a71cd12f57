"""What is known of models without asking anybody: rows of data with their sources and dates.

Each provider has a ``models`` module with a ``TABLE``; ``python -m cloudai.providers`` shows how
old they are.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from cloudai.errors import ConfigError, ModelEnds
from cloudai.types import Usage
from cloudai.types._base import unknown

SOON: Final = datetime.timedelta(days=60)
"""How long before its end a model is warned of."""


class Price(NamedTuple):
    """US dollars for a million tokens.

    Parameters
    ----------
    input, output: of the prompt and the answer. cached: of the prompt's part that was read from a
        cache; None where it has no known price. written: of the part written to one.
    above: tokens of a prompt beyond which ``long`` counts for all of it.
    """

    input: float
    output: float = 0.0
    cached: float | None = None
    written: float | None = None
    above: int | None = None
    long: tuple[float, float, float] | None = None  # input, output, cached

    def cost(self, usage: Usage) -> float | None:
        """US dollars of a call; None where a part of it has no known price."""
        paid, made, cached = self.input, self.output, self.cached
        if self.above is not None and self.long is not None and usage.input_tokens > self.above:
            paid, made, cached = self.long
        read, written = usage.cached_input_tokens, usage.cache_write_tokens
        if (read and cached is None) or (written and self.written is None):
            return None
        plain = usage.input_tokens - read - written
        dollars = plain * paid + usage.output_tokens * made
        return (dollars + read * (cached or 0.0) + written * (self.written or 0.0)) / 1e6


class Model(NamedTuple):
    """What is known of a model.

    Parameters
    ----------
    name: the vendor's, or how the names of its versions begin.
    price: where it is known. ends: the day it is switched off, as far as it is published.
    source, read: where that stands, and when it was read (YYYY-MM).
    """

    name: str
    price: Price | None = None
    ends: datetime.date | None = None
    source: str = ""
    read: str = ""


class Table:
    """The models of a provider.

    Parameters
    ----------
    provider: its name. models: the rows.
    plain: a model's name without what a table need not know, such as a region.
    versions: which rest of a name still is the same model; None: any.
    """

    def __init__(
        self,
        provider: str,
        models: Sequence[Model],
        *,
        plain: Callable[[str], str] = str,
        versions: Callable[[str], bool] = lambda rest: True,
    ) -> None:
        self.provider = provider
        self.models = tuple(models)
        self._plain = plain
        self._versions = versions
        self._found: dict[str, Model | None] = {}
        self._told: set[str] = set()

    def find(self, model: str) -> Model | None:
        """The row of a model: the one with the longest name that its name begins with."""
        if model in self._found:
            return self._found[model]
        name = self._plain(model)
        fits = [
            row
            for row in self.models
            if name.startswith(row.name) and self._versions(name[len(row.name) :])
        ]
        found = max(fits, key=lambda row: len(row.name), default=None)
        if len(self._found) < 1024:  # a program that makes up names must not fill the memory
            self._found[model] = found
        return found

    def ending(self, model: str, today: datetime.date | None = None) -> str | None:
        """That a model has ended, or ends soon, in words; None where neither is known."""
        found = self.find(model)
        if found is None or found.ends is None:
            return None
        today = today or datetime.datetime.now(datetime.UTC).date()
        if found.ends > today + SOON:
            return None
        verb = "ended" if found.ends <= today else "ends"
        return f"{model} {verb} on {found.ends} ({found.source}, read {found.read})"

    def cost(self, model: str, usage: Usage) -> float | None:
        """US dollars of a call; None where the model's price is not known. Warns, once, of a
        model that ends."""
        found = self.find(model)
        if found is not None and found.ends is not None and model not in self._told:
            self._told.add(model)
            said = self.ending(model)
            if said is not None:
                warnings.warn(said, ModelEnds, stacklevel=2)
        return None if found is None or found.price is None else found.price.cost(usage)

    def tokens_cost(self, model: str, tokens: int) -> float | None:
        """US dollars of embedding so many tokens; None where the model's price is not known."""
        return self.cost(model, Usage(input_tokens=tokens))

    def oldest(self) -> str:
        """When the oldest row was read."""
        return min(row.read for row in self.models)


def prices(profile: str, given: Any) -> dict[str, Price]:
    """The ``prices`` of a profile: US dollars for a million tokens, by the model's logical or
    vendor's name. Raises ConfigError naming the field.

    ::

        [profiles.work.prices]
        "my-deployment" = { input = 1.25, output = 10.0, cached = 0.125 }
    """
    if given is None:
        return {}
    where = f"prices in [profiles.{profile}]"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} is not a table", hint='"MODEL" = { input = 1.25 }')
    made: dict[str, Price] = {}
    for model, about in given.items():
        if not isinstance(about, Mapping) or "input" not in about:
            raise ConfigError(f"{where}: {model!r} names no input", hint="{ input = 1.25 }")
        for name in about:
            if name not in _PRICED:
                raise unknown(f"price of {model}", str(name), _PRICED)
        try:
            told = msgspec.convert(about, dict[str, float])
        except msgspec.ValidationError as error:
            raise ConfigError(f"{where}: {model!r}: {error}") from None
        made[str(model)] = Price(
            told["input"], told.get("output", 0.0), told.get("cached"), told.get("written")
        )
    return made


_PRICED: Final = ("input", "output", "cached", "written")
