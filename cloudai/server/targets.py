"""What each platform allows a request to a deployed model, as data: ``cloudai serve --target``
enforces it on this machine, so that what passes here passes there.

Each number has its source beside it; "read" is the month in which the page was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from cloudai.errors import ConfigError

TargetName: TypeAlias = Literal[
    "sagemaker", "sagemaker-serverless", "vertex", "vertex-shared", "azureml"
]
NAMES: Final[tuple[str, ...]] = get_args(TargetName)

TARGET_VARIABLE: Final = "CLOUDAI_TARGET"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One platform's rules.

    Parameters
    ----------
    title: as its documentation calls it. source: where the numbers stand, and when it was read.
    body: bytes of a request at most; None: no number is published.
    answer: bytes of a whole answer at most; None: no number is published.
    timeout: seconds until an answer, as cloudai's adapter deploys.
    most_timeout: seconds that the platform can be told at most.
    stream: seconds until the end of an answer in pieces; None: as for a whole one.
    pending: requests at once, for each worker process; None: no number is published.
    posts: names of the routes that its callers come to, the usual one first.
    probes: names of the routes that the platform itself asks.
    variables: environment variables that it sets, or prefixes that end with ``_``.
    headers: the request headers that it hands on, or prefixes that end with ``-``; None: all.
    header_size: characters of such a header's value at most; None: no number is published.
    variant: the request header by which a caller asks for one variant; None: there is none.
    """

    title: str
    source: str
    body: int | None
    answer: int | None
    timeout: float
    most_timeout: float
    stream: float | None = None
    pending: int | None = None
    posts: tuple[str, ...]
    probes: tuple[str, ...]
    variables: tuple[str, ...]
    headers: tuple[bytes, ...] | None = None
    header_size: int | None = None
    variant: bytes | None = None


# InvokeEndpoint: "strips all POST headers except those supported by the API", which are these and
# have at most 1024 characters (botocore 1.44, sagemaker-runtime 2017-05-13). Length and coding are
# of the connection to the container, not of the caller's.
_SAGEMAKER_HEADERS: Final = (
    b"content-type", b"accept", b"x-amzn-sagemaker-", b"content-length", b"transfer-encoding",
    b"host",
)  # fmt: skip
_SAGEMAKER: Final = Target(
    title="SageMaker AI's real-time endpoints",
    # Botocore's model still tells 6 MB for both bodies, and does not hold anyone to it.
    source="SageMaker AI Developer Guide, 'Adapt your own inference container' and 'Model "
    "Hosting FAQs', read 2026-11",
    body=25 << 20,
    answer=25 << 20,
    timeout=60.0,
    most_timeout=60.0,
    stream=480.0,
    posts=("invocations",),
    probes=("ping", "execution_parameters"),
    variables=("SAGEMAKER_",),
    headers=_SAGEMAKER_HEADERS,
    header_size=1024,
    variant=b"x-amzn-sagemaker-target-variant",
)
_VERTEX: Final = Target(
    title="Vertex AI's dedicated endpoints",
    source="Vertex AI, 'Choose an endpoint type' and 'Create a public endpoint', read 2026-11",
    body=10_000_000,
    answer=10_000_000,
    timeout=600.0,  # inferenceTimeout, where the endpoint is not told another
    most_timeout=3600.0,
    posts=("vertex_predict", "predict", "v1_predict"),
    probes=("health", "ping"),
    variables=("AIP_",),
)

TARGETS: Final[dict[str, Target]] = {
    "sagemaker": _SAGEMAKER,
    "sagemaker-serverless": msgspec.structs.replace(
        _SAGEMAKER,
        title="SageMaker AI's serverless endpoints",
        source="SageMaker AI Developer Guide, 'Invoke a serverless endpoint', read 2026-11",
        body=4 << 20,
        answer=4 << 20,
        stream=None,
        probes=("ping",),
    ),
    "vertex": _VERTEX,
    "vertex-shared": msgspec.structs.replace(
        _VERTEX,
        title="Vertex AI's shared public endpoints",
        source="Vertex AI, 'Custom container requirements for inference' and 'Choose an endpoint "
        "type', read 2026-11",
        body=1_500_000,
        answer=1_500_000,
        timeout=60.0,
        most_timeout=60.0,
    ),
    "azureml": Target(
        title="Azure ML's managed online endpoints",
        source="Azure Machine Learning, 'Manage and increase quotas and limits' and "
        "'Troubleshoot online endpoints', read 2026-11",
        body=None,
        answer=None,
        # The service itself gives 5 seconds to a deployment that asks for nothing; cloudai's
        # adapter asks for all there is.
        timeout=180.0,
        most_timeout=180.0,
        # 2 * max_concurrent_requests_per_instance; cloudai's adapter says workers for that, and
        # max_queue where an image of one's own serves.
        pending=2,
        posts=("score",),
        probes=("root", "live", "ready", "openapi"),
        variables=("AZUREML_", "WORKER_COUNT"),
        variant=b"azureml-model-deployment",
    ),
}


def scoped(env: Mapping[str, str], target: str | None) -> dict[str, str]:
    """The environment without what another platform than ``target`` would set."""
    if target is None:
        return dict(env)
    own = TARGETS[target].variables
    others = {name for one in TARGETS.values() for name in one.variables} - set(own)
    return {name: value for name, value in env.items() if not _among(name, others)}


def _among(name: str, names: set[str]) -> bool:
    return any(name.startswith(one) if one.endswith("_") else name == one for one in names)


def target_from(env: Mapping[str, str]) -> str | None:
    """``CLOUDAI_TARGET``. Raises ConfigError for a name that is none."""
    name = env.get(TARGET_VARIABLE) or None
    if name is not None and name not in TARGETS:
        raise ConfigError(
            f"{TARGET_VARIABLE}={name!r} is no target", hint=f"Use one of {', '.join(NAMES)}"
        )
    return name


def filled(target: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    """A server's limits under a target: those that were said, and the platform's for the others.

    Raises ConfigError where one was said that the platform does not allow.
    """
    about = TARGETS[target]
    made = dict(limits)
    for name, usual, most in (
        ("body", about.body, about.body),
        ("timeout", about.timeout, about.most_timeout),
    ):
        if most is None:
            continue
        asked = made.setdefault(name, usual)
        if isinstance(asked, (int, float)) and asked > most:
            raise ConfigError(
                f"limits.{name}={asked} is more than {about.title} allow: {most} ({about.source})",
                hint=f"Leave it out, or leave out target {target!r}",
            )
    return made
