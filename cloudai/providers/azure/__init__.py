"""The azure provider: Azure OpenAI with Key Vault, and Azure ML.

Chat and embeddings are Azure OpenAI's. Training is its fine-tuning, endpoints are its model
deployments and batch is its batch API, unless the profile names a ``workspace``: then training,
endpoints and batch are Azure Machine Learning's, for general PyTorch.
"""

from typing import Final

from cloudai._core.profiles.registry import Key, ProviderSpec

_SUBSCRIPTION: Final = {
    "endpoint": "https://stand-in.openai.azure.com",
    "subscription": "00000000-0000-0000-0000-000000000000",
    "resource_group": "stand-in",
}

SPEC: Final = ProviderSpec(
    name="azure",
    title="Azure: Azure OpenAI, Key Vault and Azure ML",
    models="cloudai.providers.azure.models:TABLE",
    keys=(
        Key(
            name="endpoint",
            doc="the Azure OpenAI resource's address, such as https://acme.openai.azure.com",
            identity=True,
            trust="address",
        ),
        Key(name="api_key", doc="the resource's API key, by reference", kind="secret"),
        Key(
            name="credential",
            doc="without an API key, and for Key Vault and management: default, cli, "
            "environment, managed-identity, workload-identity, developer-cli or powershell; "
            "managed-identity:CLIENT_ID for a user-assigned one (default: default)",
            identity=True,
        ),
        Key(
            name="api_version",
            doc="a dated version such as 2025-03-01-preview, or preview for the v1 API's preview "
            "features (default: the v1 API)",
            identity=True,
        ),
        Key(name="subscription", doc="the subscription's id", identity=True),
        Key(name="resource_group", doc="the resource group", identity=True),
        Key(name="account", doc="the Azure OpenAI resource's name", identity=True),
        Key(
            name="management_endpoint",
            doc="Azure Resource Manager (default: https://management.azure.com)",
            identity=True,
            trust="address",
        ),
        Key(
            name="workspace",
            doc="an Azure ML workspace: training, endpoints and batch of models go there",
            identity=True,
        ),
        Key(
            name="compute",
            doc="the workspace's cluster that batch endpoints run on (jobs run on serverless "
            "compute unless native names a cluster)",
            identity=True,
        ),
    ),
    capabilities={
        "training": "cloudai.providers.azure.chosen:training",
        "endpoints": "cloudai.providers.azure.chosen:endpoints",
        "batch": "cloudai.providers.azure.openai.batch:AzureBatch",
        "chat": "cloudai.providers.azure.openai.chat:AzureChat",
        "embeddings": "cloudai.providers.azure.openai.embeddings:AzureEmbeddings",
    },
    extras={
        "training": "azure",
        "endpoints": "azure",
        "batch": "azure",
        "chat": "azure",
        "embeddings": "azure",
        "secrets": "azure",
        "workspace": "azureml",
    },
    secrets={"keyvault": "cloudai.providers.azure.secrets:KeyVaultSecrets"},
    stand_ins=(
        {**_SUBSCRIPTION, "workspace": "stand-in", "compute": "stand-in"},
        {**_SUBSCRIPTION, "account": "stand-in"},
    ),
    # Azure OpenAI's and Foundry's resources and Resource Manager, in the public and the sovereign
    # clouds (azure-ai-ml 1.35's own table of them); not cloudapp.azure.com or azurewebsites.net,
    # where anybody may have a server. What is not here is asked for by `cloudai trust`, no more.
    domains=(
        r"[a-z0-9-]+\.(openai|cognitiveservices|services\.ai)\.azure\.(com|us|cn)",
        r"management\.(azure\.com|usgovcloudapi\.net|chinacloudapi\.cn)",
        r"([a-z0-9-]+\.)+api\.(azureml\.ms|ml\.azure\.(us|cn))",
    ),
    store="azureml://datastores/workspaceblobstore/paths/{path}",
    gaps={
        "embeddings:rerank": "no ranking of documents; a cross-encoder on this machine does it",
        "training:script": "only with workspace= (Azure ML); Azure OpenAI fine-tunes",
        "training:spot": "only with workspace= (Azure ML)",
        "training:weights": "fine-tuning gives a model's name, not its weights",
        "endpoints:traffic": "Azure OpenAI deployments share no traffic; cloudai's client picks "
        "one by weight. Azure ML splits it at the endpoint",
        "embeddings:truncate": "Azure OpenAI refuses overlong texts",
        "chat:responses": "models of the Responses API alone (codex, *-pro), and tools while "
        "gpt-5.4 and later reason",
        "chat:document-url": "documents travel inline",
    },
)
