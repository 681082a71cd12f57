"""The vertex provider: Vertex AI's training, endpoints, batch; Gemini's chat and embeddings.

This module is data alone; ``docs/providers/vertex.md`` says how it is set up. All requests are
REST with the JSON of Google's protos; credentials come from google-auth, and files move through
google-cloud-storage.
"""

from typing import Final

from cloudai._core.profiles.registry import Key, ProviderSpec

SPEC: Final = ProviderSpec(
    name="vertex",
    title="Google: Vertex AI and Gemini",
    models="cloudai.providers.vertex.models:TABLE",
    keys=(
        Key(
            name="project",
            doc="the Google Cloud project's id (else GOOGLE_CLOUD_PROJECT, else the credential's)",
            identity=True,
        ),
        Key(
            name="location",
            doc='the region, such as "europe-west4"; "global" for Gemini (else '
            "GOOGLE_CLOUD_LOCATION)",
            identity=True,
        ),
        Key(
            name="bucket",
            doc='the staging bucket, "gs://NAME" or "NAME", in the same region',
            identity=True,
        ),
        Key(name="service_account", doc="the service account that jobs and endpoints run as"),
        Key(name="network", doc="the VPC network of jobs: projects/NUMBER/global/networks/NAME"),
        Key(
            name="reserved_ip_ranges",
            doc="names of reserved address ranges of that network, with commas between: jobs get "
            "their addresses from these alone",
        ),
        Key(
            name="credentials",
            doc="a credential file of any kind (default: application default credentials)",
            kind="path",
            # Such a file may itself name addresses, and files to be sent there.
            trust="word",
        ),
        Key(name="impersonate", doc="a service account to act as, with short-lived tokens"),
        Key(
            name="endpoint",
            doc="the base URL of Vertex AI; one outside googleapis.com, such as an emulator or "
            "a gateway, serves the other Google APIs too",
            identity=True,
            trust="address",
        ),
    ),
    capabilities={
        "training": "cloudai.providers.vertex.training.adapter:VertexTraining",
        "endpoints": "cloudai.providers.vertex.endpoints.adapter:VertexEndpoints",
        "batch": "cloudai.providers.vertex.batch.adapter:VertexBatch",
        "chat": "cloudai.providers.vertex.chat.adapter:VertexChat",
        "embeddings": "cloudai.providers.vertex.embeddings.adapter:VertexEmbeddings",
    },
    secrets={"secretmanager": "cloudai.providers.vertex.secrets:SecretManager"},
    stand_ins=({"project": "stand-in", "location": "us-central1", "bucket": "stand-in"},),
    domains=(r"([a-z0-9-]+\.)+googleapis\.com",),
    store="gs://{path}",
    gaps={
        "embeddings:rerank": "no ranking of documents; a cross-encoder on this machine does it",
        "training:finetune.method": 'Only "supervised": preference and reinforcement tuning are '
        "previews, in google-genai's client.tunings.",
        "training:weights": "A tuned Gemini stays at Vertex AI: chat with model=job.model.uri. A "
        "script of your own keeps its weights.",
        "training:retry.on=failed": "Vertex AI restarts preempted workers, not failed scripts.",
        "chat:tools+response_type": "Gemini 2 takes one of them; later ones no forced tool beside "
        "a response_type",
        "endpoints:rollout.alarms": "Watch the canary and call update() with the former variants, "
        "or use the aws provider, whose API rolls back on alarms.",
        "endpoints:serverless": "Use min=1, or native dedicatedResources.minReplicaCount=0 where "
        "your project is allowed to scale to zero.",
    },
)
