"""What is known of models: prices, ends, one's own prices, and how old it all is."""

from __future__ import annotations

import datetime
import re
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
from cloudai.providers.azure.models import TUNING as AZURE_TUNING
from cloudai.providers.vertex.models import TABLE as VERTEX
from cloudai.providers.vertex.models import TUNING as VERTEX_TUNING
from cloudai.testing import FakeScript
from cloudai.types import TrainingJob, Usage

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
    table, tuned = registry.table(registry.spec(name)), registry.tuning_table(registry.spec(name))
    assert table is not None
    for one in filter(None, (table, tuned)):
        assert len({row.name for row in one.models}) == len(one.models)
        for row in one.models:
            assert row.source
            assert datetime.date.fromisoformat(f"{row.read}-01")


READ = datetime.date(2026, 11, 30)
"""When the tables were last held against the vendors' pages."""
NAME = re.compile(
    r"\b(?:(?:us|eu|global|apac)\.)?(?:anthropic\.claude|gpt|gemini|o[134]|text-embedding|amazon|"
    r"meta\.llama|cohere|mistral|deepseek)[-.][\w.:-]*\w"
)


@pytest.mark.parametrize(
    "folder", ["README.md", "docs", "examples", "benchmarks", "cloudai/testing"]
)
def test_e15_what_we_name_can_be_called(folder: str) -> None:
    root = Path(__file__).parents[2] / folder
    files = [root] if root.is_file() else [*root.rglob("*.md"), *root.rglob("*.py")]
    seen, ended = 0, set[str]()
    for path in files:
        for name in set(NAME.findall(path.read_text())):
            tuned = [one for one in (AZURE_TUNING, VERTEX_TUNING) if one.find(name)]
            rows = [one.find(name) for one in tuned or (AWS, AZURE, VERTEX)]
            seen += any(rows)
            ended |= {
                f"{path.name}: {name}" for row in rows if row and row.ends and row.ends < READ
            }
    assert not ended
    assert seen or folder == "README.md"


def test_e15_emulators_tune_what_the_vendors_tune() -> None:
    """The vendors' own lists, in the tables; none that has ended is tuned."""
    from cloudai.testing.emulators.azure import _tuning as azure
    from cloudai.testing.emulators.vertex import _tuning as vertex

    for names, table in ((azure.MODELS, AZURE_TUNING), (vertex.TUNABLE, VERTEX_TUNING)):
        for name in names:
            row = table.find(name)
            assert row is not None
            assert row.ends is None or row.ends > READ


def test_e15_models_of_a_client_tell_when_they_end(tmp_path: Path) -> None:
    with Client(provider="azure", endpoint="https://x.openai.azure.com", home=str(tmp_path)) as one:
        rows = {(row.name, row.tuned): row for row in one.models.list()}
    gone = rows["gpt-4o", False]
    assert gone.ends == datetime.date(2026, 10, 1)
    assert gone.note is not None
    assert gone.note.startswith("gpt-4o ended on 2026-10-01")
    assert (rows["gpt-5.1", False].input, rows["gpt-5.1", False].output) == (1.25, 10)
    assert rows["gpt-4.1-nano-2025-04-14", True].input == 1.5
    with Client(provider="local", home=str(tmp_path)) as local:
        assert local.models.list() == []


def test_e15_plan_tells_of_a_base_model_that_ends(tmp_path: Path) -> None:
    spec = TrainingJob(
        kind="finetune", base_model="gemini-2.5-flash", inputs={"train": "gs://b/t.jsonl"}
    )
    keys = {"project": "p", "location": "us-central1", "bucket": "b", "home": str(tmp_path)}
    with Client(provider="vertex", **keys) as client:
        notes = client.training.plan(spec).notes
    assert any(note.startswith("gemini-2.5-flash ended on 2026-10-20") for note in notes)


def test_e15_the_tables_show_their_age(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([]) == 0
    told = capsys.readouterr().out
    assert "azure: " in told
    assert "gpt-4o ended on 2026-10-01" in told
    assert "azure, fine-tuning: 7 models" in told
    assert "vertex, tuning: 6 models" in told
    assert program.main(["--models", "--max-age", "1"]) == 1
    assert "gemini-3.5-flash: $1.5 in, $9 out" in capsys.readouterr().out
