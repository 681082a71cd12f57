"""Endpoints on Vertex AI by an image of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from cloudai import Client
from cloudai._core.handlers.container import platforms
from cloudai.errors import InvalidRequest

IMAGE = "europe-docker.pkg.dev/p/r/own:1"


def test_the_container_is_the_package_s(client: Client, tmp_path: Path) -> None:
    told = json.loads(msgspec.json.encode(platforms(IMAGE, 9000)))
    told["vertex"]["env"] = [{"name": "EXTRA", "value": "1"}, {"name": "MINE", "value": "1"}]
    (tmp_path / "platforms.json").write_text(json.dumps(told))
    handler = tmp_path / "mine.py"
    handler.write_text("def load(d): ...\ndef predict(m, inputs, params): return inputs\n")
    plan = client.endpoints.plan(
        "gs://m/2", name="own", image=tmp_path, handler=handler, max_batch=4, max_queue=9,
        env={"MINE": "2"}, requirements=__file__,
    )  # fmt: skip
    assert plan.ok, plan.violations
    assert plan.requests[0].body["model"]["containerSpec"] == {
        "imageUri": IMAGE,
        "predictRoute": "/predict",
        "healthRoute": "/ping",
        "ports": [{"containerPort": 9000}],
        "startupProbe": {
            "httpGet": {"path": "/ping"},
            "periodSeconds": 10,
            "timeoutSeconds": 11,
            "failureThreshold": 180,
        },
        "env": [
            {"name": "CLOUDAI_HANDLER", "value": "handler.py"},
            {"name": "CLOUDAI_MAX_BATCH", "value": "4"},
            {"name": "CLOUDAI_MAX_QUEUE", "value": "9"},
            {"name": "EXTRA", "value": "1"},
            {"name": "MINE", "value": "2"},
        ],
    }
    assert any(loss.startswith("requirements:") for loss in plan.dropped)


def test_a_folder_that_is_no_package(client: Client, tmp_path: Path) -> None:
    plan = client.endpoints.plan("gs://m/2", name="own", image=tmp_path)
    assert [one.field for one in plan.violations] == ["image"]
    with pytest.raises(InvalidRequest, match=r"has no platforms\.json"):
        client.endpoints.deploy("gs://m/2", name="own", image=tmp_path)


def test_a_handler_that_is_missing(client: Client, tmp_path: Path) -> None:
    plan = client.endpoints.plan(tmp_path, name="own", image=IMAGE, handler=tmp_path / "none.py")
    assert [one.field for one in plan.violations] == ["handler"]
    plan = client.endpoints.plan(tmp_path / "none", name="own", image=IMAGE)
    assert [one.field for one in plan.violations] == ["model"]
