"""The description of the local provider. Imports nothing heavy."""

from __future__ import annotations

from typing import Final

from cloudai._core.profiles.registry import Key, ProviderSpec

_HERE: Final = "cloudai.providers.local"

SPEC: Final = ProviderSpec(
    name="local",
    title="This machine: PyTorch, offline",
    keys=(
        Key(name="device", doc='"cpu", "cuda", "cuda:1" or "mps"; absent: a GPU if there is one'),
        Key(
            name="home",
            doc="the folder of jobs, endpoints, models and the ledger; absent: CLOUDAI_HOME, "
            "then the user's data folder",
            kind="path",
            identity=True,
            trust="word",
        ),
        Key(name="chat_model", doc="the default chat model: a Hugging Face directory"),
        Key(name="embedding_model", doc="the default embedding model: a directory"),
    ),
    capabilities={
        "training": f"{_HERE}.training:LocalTraining",
        "endpoints": f"{_HERE}.endpoints:LocalEndpoints",
        "batch": f"{_HERE}.batch:LocalBatch",
        "chat": f"{_HERE}.chat:LocalChat",
        "embeddings": f"{_HERE}.embeddings:LocalEmbeddings",
    },
    extras={
        "training": "local",
        "endpoints": "local",
        "batch": "local",
        "chat": "local",
        "embeddings": "local",
    },
    gaps={
        "training:nodes": "one machine; several processes on it by resources.nproc",
        "training:container": "no container runtime is assumed; use kind='script'",
        "training:spot": "nothing is ever taken back; a job killed from outside ends PREEMPTED",
        "training:uris": "inputs and outputs are paths of this machine; download objects first",
        "batch:shards": "one process uses all cores; two gained 5 to 20% on CPUs",
        "jobs:windows": "jobs need POSIX process groups and locks; use WSL",
    },
    default_models=True,
)
