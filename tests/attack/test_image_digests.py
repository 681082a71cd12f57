"""K19: an image that its owner pins by digest is asked for by that digest, everywhere."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import cloudai
from cloudai.testing import emulated

for name in ("moto", "openai", "google.genai", "azure.ai.ml"):
    pytest.importorskip(name)

DIGEST = f"@sha256:{'a' * 64}"
IMAGES = {
    "aws": f"123456789012.dkr.ecr.us-east-1.amazonaws.com/mine{DIGEST}",
    "azure": f"mine.azurecr.io/mine{DIGEST}",
    "vertex": f"us-central1-docker.pkg.dev/p/r/mine{DIGEST}",
}


@pytest.mark.parametrize("provider", IMAGES)
def test_k19_an_image_by_digest_stays_one(provider: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    (tmp_path / "handler.py").write_text("def load(d): ...\ndef predict(m, i): return i\n")
    image = IMAGES[provider]
    with emulated(provider) as cloud, cloud.applied(), cloud.client() as client:
        job = cloudai.TrainingJob(source=str(tmp_path), entry="train.py", image=image)
        variant = cloudai.Variant(model=str(tmp_path))
        served = cloudai.Deployment(name="house", image=image, variants=(variant,))
        for plan in (client.training.plan(job), client.endpoints.plan(served)):
            assert plan.violations == ()
            assert image in msgspec.json.encode(plan.requests).decode()
        client.training.submit(job)
