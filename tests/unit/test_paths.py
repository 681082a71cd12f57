"""One reading of paths and ``file:`` URIs (RFC 8089), on every provider."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cloudai import BatchTransform, Client, Deployment, Variant
from cloudai._core.files.paths import here, local_path
from cloudai._core.profiles import registry
from cloudai.errors import InvalidRequest


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a b/c.jsonl", "/a b/c.jsonl"),
        ("/a%20b", "/a%20b"),  # a plain path is no URI
        ("file:///a%20b/%C3%A4.jsonl", "/a b/ä.jsonl"),
        ("file:///a b#c?d", "/a b#c?d"),
        ("file://localhost/a", "/a"),
        ("c/d", f"{os.getcwd()}/c/d"),
        ("~/x", f"{Path.home()}/x"),
        ("file://~/x%20y", f"{Path.home()}/x y"),
    ],
)
def test_i11_a_uri_names_the_path_that_it_encodes(uri: str, path: str) -> None:
    assert here(uri) == Path(path)


@pytest.mark.parametrize("uri", ["s3://b/k", "gs://b/k", "file://server/share/x", "https://a/b"])
def test_i11_what_lies_elsewhere_is_no_path(uri: str) -> None:
    assert here(uri) is None
    with pytest.raises(InvalidRequest, match="is not on this machine") as caught:
        local_path(uri, "input")
    assert caught.value.field == "input"


def test_i11_each_provider_decodes_a_files_uri(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / "in put.jsonl").write_text('"a"\n')
    (folder / "handler.py").write_text(
        "def load(d):\n    return 0\n\n\ndef predict(m, inputs, params):\n    return inputs\n"
    )
    model, given = folder.as_uri(), (folder / "in put.jsonl").as_uri()
    assert "%20" in model
    for provider in ("fake", "local", "aws", "azure", "vertex"):
        keys = next(iter(registry.spec(provider).stand_ins), {})
        framework = "pytorch==2.3" if provider == "vertex" else "pytorch==2.6"
        client = Client(provider=provider, home=str(tmp_path / "home"), **keys)
        output = (folder / f"{provider}.jsonl").as_uri()
        plan = client.batch.plan(
            BatchTransform(model=model, input=given, output=output, framework=framework)
        )
        assert plan.ok, (provider, plan.violations)
        served = client.endpoints.plan(
            Deployment(name="served", variants=(Variant(model=model),), framework=framework)
        )
        assert served.ok, (provider, served.violations)


def test_i11_a_batch_reads_and_writes_at_decoded_paths(tmp_path: Path) -> None:
    folder = tmp_path / "ä b"
    folder.mkdir()
    (folder / "in.jsonl").write_text('"a"\n')
    client = Client(provider="fake", home=str(tmp_path / "home"))
    output = folder / "out %.jsonl"
    client.batch.submit(
        BatchTransform(chat="m", input=(folder / "in.jsonl").as_uri(), output=output.as_uri())
    ).wait(10)
    assert json.loads(output.read_text())["text"] == "a"
