"""Chat and embeddings on any server that speaks OpenAI's API.

This module is data alone: nothing is loaded before the provider is used.
"""

from typing import Final

from cloudai import Key, ProviderSpec

SPEC: Final = ProviderSpec(
    name="compat",
    title="Any server with OpenAI's API",
    keys=(
        Key(name="endpoint", doc="up to /v1, such as http://127.0.0.1:8000/v1", identity=True),
        Key(name="api_key", doc="sent as a bearer token, by reference", kind="secret"),
    ),
    capabilities={
        "chat": "cloudai_compat.chat:CompatChat",
        "embeddings": "cloudai_compat.embeddings:CompatEmbeddings",
    },
    gaps={
        "chat:documents": "Put the text of a document into the message.",
        "embeddings:truncate": "Cut the texts before they are sent.",
    },
)
