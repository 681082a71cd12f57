"""``python -m cloudai.providers``: how old what is known of the providers' models is, and which of
them have ended or end soon. Asks nobody; exits with 1 where a table is older than ``--max-age``."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence

from cloudai._core.models import Model, Table
from cloudai._core.numerals import numeral
from cloudai._core.profiles import registry


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m cloudai.providers", description=__doc__)
    parser.add_argument("--models", action="store_true", help="each row, with its source")
    parser.add_argument("--max-age", type=int, metavar="DAYS", help="of the oldest row")
    asked = parser.parse_args(arguments)
    today = datetime.datetime.now(datetime.UTC).date()
    specs = [registry.spec(name) for name in registry.names()]
    found = [look(spec) for spec in specs for look in (registry.table, registry.tuning_table)]
    tables = [table for table in found if table is not None]
    for table in tables:
        print("\n".join(_lines(table, today, rows=asked.models)))  # noqa: T201
    oldest = max(_age(table.oldest(), today) for table in tables)
    return int(asked.max_age is not None and oldest > asked.max_age)


def _lines(table: Table, today: datetime.date, *, rows: bool) -> list[str]:
    oldest = table.oldest()
    count, age = len(table.models), _age(oldest, today)
    made = [f"{table.provider}: {count} models; the oldest row was read {oldest}, {age} days ago"]
    made += [f"  {said}" for row in table.models if (said := table.ending(row.name, today))]
    if rows:
        made += [f"  {_row(row)}" for row in table.models]
    return made


def _row(row: Model) -> str:
    price = row.price
    told = (
        "price not known"
        if price is None
        else f"${numeral(price.input)} in, ${numeral(price.output)} out"
    )
    ends = f", ends {row.ends}" if row.ends else ""
    return f"{row.name}: {told}{ends} ({row.source}, {row.read})"


def _age(read: str, today: datetime.date) -> int:
    """Days since the first of a month (YYYY-MM)."""
    return (today - datetime.date.fromisoformat(f"{read}-01")).days


if __name__ == "__main__":
    sys.exit(main())
