"""What is known of models: prices, ends, one's own prices, and how old it all is."""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path

import pytest

from cloudai import Client
from cloudai._core.models import Model, Price, Table, prices
from cloudai._core.profiles import registry
from cloudai.errors import ConfigError, ModelEnds
from cloudai.providers import __main__ as program
from cloudai.providers.aws.models import TABLE as AWS
from cloudai.providers.azure.models import TABLE as AZURE
from cloudai.providers.vertex.models import TABLE as VERTEX
from cloudai.testing import FakeScript
from cloudai.types import Usage

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)


@pytest.mark.parametrize(
    ("table", "model", "dollars"),
    [
        # wires: litellm's price map and genai-prices, read 2026-11-30
        (AZURE, "gpt-5.1-2025-11-13", 11.25),
        (AZURE, "gpt-5.2", 15.75),
        (AZURE, "gpt-5", 11.25),
        (VERTEX, "gemini-3.5-flash", 10.5),
        (VERTEX, "publishers/google/models/gemini-3.5-flash-lite", 2.8),
        (AWS, "us.deepseek.v3.2-v1:0", 2.47),
        (AWS, "deepseek.r1-v1:0", 6.75),
        (AWS, "global.anthropic.claude-opus-4-6-v1", 30.0),
        (AZURE, "gpt-5-pro", None),
        (AZURE, "gpt-4o.ft-1-mine", None),
        (VERTEX, "projects/p/locations/l/endpoints/1", None),
        (VERTEX, "gemini-3.7-flash", None),
    ],
)
def test_e14_prices(table: Table, model: str, dollars: float | None) -> None:
    found = table.cost(model, MILLION)
    assert found == (None if dollars is None else pytest.approx(dollars))


def test_e14_long_prompts_and_caches() -> None:
    short, long = Usage(input_tokens=200_000), Usage(input_tokens=300_000, output_tokens=1000)
    assert AZURE.cost("gpt-5.4", short) == pytest.approx(0.5)
    assert AZURE.cost("gpt-5.4", long) == pytest.approx(0.3 * 5 + 0.001 * 22.5)
    read = Usage(input_tokens=1000, cached_input_tokens=1000)
    assert AWS.cost("anthropic.claude-opus-5-5", read) == pytest.approx(0.2e-3)
    assert Price(1.0).cost(read) is None


def test_e14_prices_of_the_profile(tmp_path: Path) -> None:
    file = tmp_path / "cloudai.toml"
    file.write_text(
        """
[profiles.own]
provider = "fake"
models = { default = "smart" }
prices = { default = { input = 1000000, output = 2000000 }, embed = { input = 1000000 } }
"""
    )
    script = FakeScript(tmp_path / "home")
    script.reply("a b c")
    script.reply("a b c")
    with Client("own", config=file, home=str(tmp_path / "home")) as client:
        reply = client.chat.create("one two")
        assert reply.cost == reply.usage.input_tokens + 2 * reply.usage.output_tokens > 0
        with client.chat.stream("one two") as stream:
            told = [chunk.cost for chunk in stream if chunk.usage is not None]
            assert [stream.reply.cost] == told == [reply.cost]
        vectors = client.embeddings.create(["one"], model="embed")
        assert vectors.cost == vectors.usage.input_tokens > 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("x", "is not a table"),
        ({"m": {"output": 1}}, "names no input"),
        ({"m": {"input": 1, "inptu": 2}}, "inptu"),
        ({"m": {"input": "much"}}, "Expected `float`"),
    ],
)
def test_e14_prices_that_are_wrong(given: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        prices("p", given)


def test_e15_a_model_that_ends_is_told_once() -> None:
    day = datetime.date(2026, 11, 30)
    table = Table("x", [Model("m", Price(1), datetime.date(2026, 12, 24), "a page", "2026-11")])
    assert table.ending("m-1", day) == "m-1 ends on 2026-12-24 (a page, read 2026-11)"
    assert table.ending("m-1", datetime.date(2027, 1, 1)) == (
        "m-1 ended on 2026-12-24 (a page, read 2026-11)"
    )
    assert table.ending("m-1", datetime.date(2026, 1, 1)) is None
    ended = Table("x", [Model("m", Price(1), datetime.date(2020, 1, 1), "a page", "2020-01")])
    with pytest.warns(ModelEnds, match="m ended on 2020-01-01"):
        ended.cost("m", MILLION)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ended.cost("m", MILLION)


@pytest.mark.parametrize("name", ["aws", "azure", "vertex"])
def test_e15_each_row_has_a_source_and_a_date(name: str) -> None:
    table = registry.table(registry.spec(name))
    assert table is not None
    assert len({row.name for row in table.models}) == len(table.models)
    for row in table.models:
        assert row.source
        assert datetime.date.fromisoformat(f"{row.read}-01")


def test_e15_the_tables_show_their_age(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([]) == 0
    told = capsys.readouterr().out
    assert "azure: " in told
    assert "gpt-4o ended on 2026-10-01" in told
    assert program.main(["--models", "--max-age", "1"]) == 1
    assert "gemini-3.5-flash: $1.5 in, $9 out" in capsys.readouterr().out
