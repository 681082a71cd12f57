"""``client.models``: what is known of the provider's models without asking it."""

from __future__ import annotations

import datetime

import msgspec

from cloudai._core.models import Table
from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Profile


class KnownModel(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a provider's table.

    Parameters
    ----------
    name: the vendor's, or how the names of its versions begin. tuned: whether the row is of the
        list of models that the vendor fine-tunes; its price is then of training tokens.
    input, output, cached: US dollars for a million tokens; None where not known.
    ends: the day it is switched off, as far as it is published. note: that it has ended, or ends
        within two months. source, read: where that stands, and when it was read (YYYY-MM).
    """

    name: str
    tuned: bool = False
    input: float | None = None
    output: float | None = None
    cached: float | None = None
    ends: datetime.date | None = None
    note: str | None = None
    source: str
    read: str


class Models:
    """The models that a profile's provider has, by cloudai's own dated tables."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def list(self) -> list[KnownModel]:
        """The rows, without a connection; none for a provider whose models are your own. A model
        that is in no row may be there all the same."""
        spec = self._profile.spec
        tables = ((registry.table(spec), False), (registry.tuning_table(spec), True))
        return [row for table, tuned in tables if table for row in _rows(table, tuned=tuned)]


def _rows(table: Table, *, tuned: bool) -> list[KnownModel]:
    return [
        KnownModel(
            name=row.name,
            tuned=tuned,
            input=row.price and row.price.input,
            output=row.price and row.price.output,
            cached=row.price and row.price.cached,
            ends=row.ends,
            note=table.ending(row.name),
            source=row.source,
            read=row.read,
        )
        for row in table.models
    ]
