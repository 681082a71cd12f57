"""Finding again what was created: by idempotency key and by tag."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from cloudai.errors import Conflict, NotFound
from cloudai.protocols import Call
from cloudai.providers.aws.common import KEY_TAG, KIND_TAG
from cloudai.providers.aws.session import AwsSession

RESOURCES: Final = {
    "training": "sagemaker:training-job",
    "endpoint": "sagemaker:endpoint",
    "transform": "sagemaker:transform-job",
    "model": "sagemaker:model",
    "config": "sagemaker:endpoint-config",
    "invocation": "bedrock:model-invocation-job",
}
"""Kinds of ours → the tagging service's types."""


def of(session: AwsSession, arn: str, call: Call) -> dict[str, str]:
    """The tags of a SageMaker resource."""
    answer = session.call("sagemaker", "list_tags", call, ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for tag in answer["Tags"]}


def tagged(
    session: AwsSession, kind: str, filters: dict[str, str | None], call: Call
) -> Iterator[tuple[str, dict[str, str]]]:
    """The ARNs and tags of the resources with these tags; None is any value. The tagging service
    is some seconds behind."""
    rules = [
        {"Key": key, "Values": [value]} if value is not None else {"Key": key}
        for key, value in filters.items()
    ]
    token: dict[str, Any] = {}
    while True:
        answer = session.call(
            "resourcegroupstaggingapi", "get_resources", call,
            TagFilters=rules, ResourceTypeFilters=[RESOURCES[kind]], **token,
        )  # fmt: skip
        for row in answer["ResourceTagMappingList"]:
            yield row["ResourceARN"], {tag["Key"]: tag["Value"] for tag in row["Tags"]}
        following = answer.get("PaginationToken")
        if not following:
            return
        token = {"PaginationToken": following}


def name_of(arn: str) -> str:
    """The resource's name, the last part of its ARN."""
    return arn.rpartition("/")[2]


class Keys:
    """Idempotency keys and the names that they went out under.

    A create goes out under a name that SageMaker itself holds unique, so that sending it twice
    cannot make two. What this process sent is looked up by that name, which is consistent at
    once; what another process sent by its tag.
    """

    def __init__(self, session: AwsSession, kind: str, describe: str, name: str) -> None:
        self._session = session
        self._kind = kind
        self._describe = describe
        self._field = f"{name}Name"
        self._arn = f"{name}Arn"
        self._sent: dict[str, str] = {}

    def sending(self, key: str | None, name: str) -> None:
        """Notes the name before the create goes out."""
        if key is not None:
            self._sent[key] = name

    def find(self, key: str, call: Call) -> str | None:
        """The name of what was created with a key."""
        name = self._sent.get(key)
        if name is not None:
            return name if self._has(name, key, call) else None
        for arn, _ in tagged(self._session, self._kind, {KEY_TAG: key}, call):
            return name_of(arn)
        return None

    def _has(self, name: str, key: str, call: Call) -> bool:
        try:
            return self.owner(name, call) == key
        except NotFound:
            return False

    def owner(self, name: str, call: Call) -> str | None:
        """The idempotency key in its tag; None for what cloudai did not make. Raises NotFound."""
        found = self._session.call("sagemaker", self._describe, call, **{self._field: name})
        return of(self._session, found[self._arn], call).get(KEY_TAG)

    def adopt(self, error: Conflict, key: str | None, name: str, call: Call) -> str:
        """What a create that met a taken name comes to: the name, where it was this key's own
        earlier try that took it; else the error."""
        if key is not None and self._has(name, key, call):
            return name
        error.hint = (
            f"The name {name!r} is taken, and was not by this idempotency_key: attach({name!r}) "
            "gives what has it; for something new use another name"
        )
        raise error

    def listed(self, call: Call) -> list[str]:
        """The names of all that cloudai made."""
        found = tagged(self._session, self._kind, {KIND_TAG: None}, call)
        return [name_of(arn) for arn, _ in found]
