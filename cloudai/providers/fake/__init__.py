"""The fake provider: all five capabilities, scripted, deterministic, instant and offline.

It is for the tests of programs that use cloudai. Nothing is trained and no model answers; what
it says follows from the request by the rules of ``docs/testing.md``, or from a script. Its state
is a SQLite file under ``<home>/fake/``, so that another process finds its jobs and endpoints.
"""

from typing import Final

from cloudai._core.profiles.registry import Key, ProviderSpec

SPEC: Final = ProviderSpec(
    name="fake",
    title="Fake: scripted answers for tests",
    keys=(
        Key(
            name="home",
            doc="the folder of its jobs, endpoints and models (default: CLOUDAI_HOME)",
            kind="path",
            identity=True,
        ),
        Key(
            name="script",
            doc="a TOML or JSON file of scripted replies, faults and fates",
            kind="path",
            identity=True,
        ),
        Key(
            name="speed",
            doc="how fast the clock of its jobs runs (default 1.0; 10 is ten times as fast)",
            kind="number",
            identity=True,
        ),
    ),
    capabilities={
        "training": "cloudai.providers.fake.training:FakeTraining",
        "endpoints": "cloudai.providers.fake.endpoints:FakeEndpoints",
        "batch": "cloudai.providers.fake.batch:FakeBatch",
        "chat": "cloudai.providers.fake.chat:FakeChat",
        "embeddings": "cloudai.providers.fake.embeddings:FakeEmbeddings",
    },
    default_models=True,
)
