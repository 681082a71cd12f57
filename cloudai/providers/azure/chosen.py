"""Which service a profile means: Azure ML where it names a ``workspace``, else Azure OpenAI."""

from __future__ import annotations

from typing import Any

from cloudai._core.profiles.config import Profile


def training(profile: Profile) -> Any:
    """The training adapter that the profile asks for."""
    if profile.get("workspace"):
        from cloudai.providers.azure.ml.training import AzureMLTraining

        return AzureMLTraining(profile)
    from cloudai.providers.azure.openai.training import AzureFineTuning

    return AzureFineTuning(profile)


def endpoints(profile: Profile) -> Any:
    """The endpoints adapter that the profile asks for."""
    if profile.get("workspace"):
        from cloudai.providers.azure.ml.endpoints import AzureMLEndpoints

        return AzureMLEndpoints(profile)
    from cloudai.providers.azure.openai.endpoints import AzureDeployments

    return AzureDeployments(profile)
