"""Puts the operations that moto lacks, or takes too lightly, into moto.

moto finds an operation as a method of its service's response class; ours are put there, once a
process, so that they serve moto's server and its in-process mock alike. Every request of theirs
is first held against botocore's model of the service.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from flask import has_request_context
from moto.core.responses import ActionResult

from cloudai.testing.emulators.aws import (
    _bedrock,
    _endpoints,
    _invocation,
    _runtime,
    _sagemaker,
    _transform,
)
from cloudai.testing.emulators.aws._state import STATE, Refused
from cloudai.testing.emulators.aws._validate import refuse

_lock: Final = threading.Lock()
_done: list[bool] = []
_CONTROL: Final = {**_sagemaker.OPERATIONS, **_endpoints.OPERATIONS, **_transform.OPERATIONS}


def _snake(name: str) -> str:
    from botocore import xform_name

    return xform_name(name)


def _json_operation(name: str, function: Callable[[str, dict[str, Any]], Any]) -> Any:
    def method(self: Any) -> Any:
        parameters = msgspec.json.decode(self.body or b"{}")
        try:
            refuse("sagemaker", name, parameters)
            with STATE.lock:
                return ActionResult(function(self.region, parameters) or {})
        except Refused as refused:
            return _runtime.error(400, refused.code, str(refused), __type=refused.code)

    return method


def _rest_operation(service: str, name: str, function: Any) -> Any:
    def method(self: Any) -> Any:
        body = self.body if isinstance(self.body, bytes) else str(self.body or "").encode()
        path = unquote(self.parsed_url.path)
        try:
            status, headers, made = function(
                self.region, path, self.headers, body, self.querystring
            )
        except Refused as refused:
            return _runtime.error(400, refused.code, str(refused))
        if not isinstance(made, bytes) and not has_request_context():
            made = b"".join(made)  # in process there is no connection for its pieces
        return status, headers, made

    return method


def install() -> None:
    """Extends moto; once a process is enough."""
    with _lock:
        if _done:
            return
        from moto.bedrock.responses import BedrockResponse
        from moto.bedrockruntime.responses import BedrockRuntimeResponse
        from moto.core.responses import BaseResponse
        from moto.iam.responses import IamResponse
        from moto.logs.responses import LogsResponse
        from moto.resourcegroupstaggingapi.responses import (
            ResourceGroupsTaggingAPIResponse,
        )
        from moto.sagemaker.responses import SageMakerResponse
        from moto.sagemakerruntime import urls as runtime_urls
        from moto.sagemakerruntime.responses import SageMakerRuntimeResponse
        from moto.sts.responses import TokenResponse

        known: Any = SageMakerResponse
        for name, function in _CONTROL.items():
            setattr(known, _snake(name), _json_operation(name, function))
        for service, response, operations in (
            ("bedrock-runtime", BedrockRuntimeResponse, _bedrock.RUNTIME),
            ("bedrock", BedrockResponse, _invocation.OPERATIONS),
            ("sagemaker-runtime", SageMakerRuntimeResponse, _runtime.OPERATIONS),
        ):
            for name, function in operations.items():
                setattr(response, _snake(name), _rest_operation(service, name, function))
        streaming = "{0}/endpoints/(?P<name>[^/]+)/invocations-response-stream$"
        runtime_urls.url_paths[streaming] = SageMakerRuntimeResponse.dispatch
        _wrap_missing(BaseResponse)
        _wrap_logs(LogsResponse)
        _wrap_tagging(ResourceGroupsTaggingAPIResponse)
        _wrap_sts(TokenResponse)
        setattr(IamResponse, "simulate_principal_policy", _simulate)  # noqa: B010 - as above
        _done.append(True)


def _wrap_missing(response: Any) -> None:
    """An operation that moto lacks is refused in its service's form; moto's own answer is a page of
    HTML with 500, which every SDK asks for again and cannot read."""

    class ValidationException(Exception):
        """Its name is the code that the service's error has."""

    before = response.call_action

    def call_action(self: Any) -> Any:
        try:
            return before(self)
        except NotImplementedError as error:
            refused: Any = ValidationException()
            refused.message = f"The emulated AWS lacks this: {error}"
            return self.serialized(ActionResult(refused))

    response.call_action = call_action


def _wrap_logs(response: Any) -> None:
    """The logs of jobs are written when somebody looks."""
    for name in ("describe_log_streams", "get_log_events", "filter_log_events"):
        before = getattr(response, name)

        def method(self: Any, before: Any = before) -> Any:
            with STATE.lock:
                _endpoints.tick(self.region)
            return before(self)

        setattr(response, name, method)


def _wrap_tagging(response: Any) -> None:
    """GetResources finds the emulated resources too."""
    before = response.get_resources

    def get_resources(self: Any) -> Any:
        asked = msgspec.json.decode(self.body or b"{}")
        kinds = asked.get("ResourceTypeFilters", [])
        if not any(kind.startswith(("sagemaker", "bedrock")) for kind in kinds):
            return before(self)
        with STATE.lock:
            return ActionResult({"ResourceTagMappingList": _sagemaker.tagged(self.region, asked)})

    response.get_resources = get_resources


def _simulate(self: Any) -> Any:
    """SimulatePrincipalPolicy, by which the sagemaker SDK looks at a role before it trains: the
    emulated account allows its roles everything."""
    resources = self.params.get("ResourceArns") or ["*"]
    results = [
        {"EvalActionName": action, "EvalResourceName": resource, "EvalDecision": "allowed"}
        for action in self.params["ActionNames"]
        for resource in resources
    ]
    return ActionResult({"EvaluationResults": results, "IsTruncated": False})


def _wrap_sts(response: Any) -> None:
    """Credentials from AssumeRole are known to the account, and expire when it was told so."""
    import datetime

    before = response.assume_role

    def assume_role(self: Any) -> Any:
        result = before(self)
        if not isinstance(result, ActionResult):
            return result
        told: Any = result.result
        made = told["Credentials"]
        plain = isinstance(made, dict)
        key = made["AccessKeyId"] if plain else made.access_key_id
        STATE.issued.add(key)
        if STATE.lifetime is not None:
            until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=STATE.lifetime)
            if plain:
                made["Expiration"] = until
            else:
                made.expiration = until
            STATE.expiries[key] = until.timestamp()
        return result

    response.assume_role = assume_role
