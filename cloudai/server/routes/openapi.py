"""The server's OpenAPI 3.1 description, made from what is loaded: a handler that names
``INPUT_SCHEMA`` and ``OUTPUT_SCHEMA`` (JSON Schemas of one input and one output) has them in it."""

from __future__ import annotations

from typing import Any, Final

from cloudai import _version
from cloudai.server.models import Models
from cloudai.server.predictors.tensors import TYPES
from cloudai.server.routes.codecs import KINDS

_ERRORS: Final = {
    "400": "The request cannot be read.",
    "401": "The bearer token is missing or wrong.",
    "404": "There is no such model.",
    "406": "The answer does not fit what is accepted.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "415": "The content type is not read.",
    "422": "The handler cannot use these inputs.",
    "429": "The queue is full; Retry-After says when to come again.",
    "500": "The handler failed.",
    "503": "The model is not loaded.",
    "504": "No answer came in time.",
}


def document(models: Models) -> dict[str, Any]:
    """The description of this server as it is now."""
    limits = models.config.limits
    names = list(models.served) or ["model"]
    first = models.served.get(names[0])
    info = first.variants[0].group.info if first is not None else {}
    one = info.get("input_schema") or {}
    out = info.get("output_schema") or {}
    inputs = {"type": "array", "items": one, "maxItems": limits.items}
    outputs = {"type": "array", "items": out}
    params = {"type": "object"}
    name = {
        "name": "model",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": names},
    }
    predict = _body(
        {
            "anyOf": [
                _object({"inputs": inputs, "params": params}, ["inputs"]),
                _object({"instances": inputs, "parameters": params}, ["instances"]),
            ]
        }
    )
    answer = {
        "anyOf": [
            _object({"outputs": outputs}, ["outputs"]),
            _object({"predictions": outputs}, ["predictions"]),
        ]
    }
    instances = _body(_object({"instances": inputs, "parameters": params}, ["instances"]))
    predictions = _object({"predictions": outputs}, ["predictions"])
    paths: dict[str, Any] = {
        "/predict": {"post": _op("predict", "Predicts.", answer, predict)},
        "/batch_predict": {"post": _op("batchPredict", "Predicts a list.", answer, predict)},
        "/feedback": {
            "post": _op(
                "feedback", "True labels, told later.", _COUNTS, _body(_feedback(models, names))
            )
        },
        "/v1/models/{model}:predict": {
            "post": _op("v1Predict", "KServe v1 and Vertex AI.", predictions, instances),
            "parameters": [name],
        },
        "/v2/models/{model}/infer": {
            "post": _op(
                "v2Infer", "The Open Inference Protocol.", _INFER_ANSWER, _body(_infer(one))
            ),
            "parameters": [name],
        },
        "/v2/models/{model}": {"get": _op("v2Model", "A model."), "parameters": [name]},
        "/v2/models/{model}/ready": {
            "get": _op("v2ModelReady", "Whether a model can answer."),
            "parameters": [name],
        },
        "/v1/models/{model}": {"get": _op("v1Model", "A model."), "parameters": [name]},
        "/v1/models": {"get": _op("listModels", "All models.")},
        "/health": {"get": _op("health", "Readiness.")},
        "/ping": {"get": _op("ping", "SageMaker's health check.")},
        "/livez": {"get": _op("live", "Liveness.")},
        "/v2/health/live": {"get": _op("v2Live", "Liveness.")},
        "/v2/health/ready": {"get": _op("v2Ready", "Readiness.")},
        "/v2": {"get": _op("v2Server", "The server.")},
        "/execution-parameters": {"get": _op("executionParameters", "For batch transforms.")},
        "/models": {"get": _op("describe", "What is loaded.")},
    }
    if not info.get("raw"):
        either = {"anyOf": [inputs, one]}
        whole = {"anyOf": [_object({"instances": either}, ["instances"]), inputs, one]}
        for path, operation in (("/invocations", "invocations"), ("/score", "score")):
            paths[path] = {"post": _op(operation, _INVOCATIONS, {}, _body(whole))}
    if info.get("predictor") == "embeddings":
        paths["/v1/embeddings"] = {
            "post": _op("embeddings", "OpenAI's embeddings.", None, _body(_embeddings(names)))
        }
    if info.get("predictor") == "chat":
        paths["/v1/chat/completions"] = {
            "post": _op("chat", "OpenAI's chat completions.", None, _body(_chat(names)))
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"cloudai: {', '.join(names)}", "version": _version.__version__},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": _object(
                    {"error": {"anyOf": [{"type": "object"}, {"type": "string"}]}}, ["error"]
                )
            },
        },
    }


_INVOCATIONS: Final = f"SageMaker and Azure ML. Also reads {', '.join(KINDS)}."

_INFER_ANSWER: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"model_name": {"type": "string"}, "outputs": {"type": "array"}},
    "required": ["model_name", "outputs"],
}


_COUNTS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"counted": {"type": "integer"}, "correct": {"type": "integer"}},
    "required": ["counted", "correct"],
}


def _feedback(models: Models, names: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "prediction": {},
        "label": {},
        "model": {"type": "string", "enum": names},
    }
    if len(models.served) == 1:  # else a variant is valid for its own model only
        variants = [variant.name for variant in models.get(None).variants]
        told["variant"] = {"type": "string", "enum": variants}
    one = {**_object(told, ["prediction", "label"]), "additionalProperties": False}
    return _object({"feedback": {"type": "array", "items": one, "maxItems": 1000}}, ["feedback"])


def _infer(one: dict[str, Any]) -> dict[str, Any]:
    """The simplest request, one input in one tensor: JSON Schema cannot say that a tensor has as
    many values as its shape asks for."""
    tensor = {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"const": 1}, "minItems": 1, "maxItems": 1},
        "datatype": {"type": "string", "enum": [*TYPES, "BYTES"]},
        "data": {"type": "array", "items": one, "minItems": 1, "maxItems": 1},
    }
    tensors = {"type": "array", "minItems": 1, "maxItems": 1, "items": _object(tensor, [*tensor])}
    about = {"id": {"type": "string"}, "parameters": {"type": "object"}, "inputs": tensors}
    return _object(about, ["inputs"])


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _op(
    name: str,
    text: str,
    answer: dict[str, Any] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    good = {"application/json": {"schema": {"type": "object"} if answer is None else answer}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": text,
        "responses": {"200": {"description": "The answer.", "content": good}},
    }
    if body is not None:
        operation["requestBody"] = body
        codes = list(_ERRORS)
    else:
        codes = ["404"] if name in {"v1Model", "v2Model", "v2ModelReady"} else []
        unready: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
        operation["responses"]["503"] = {"description": _ERRORS["503"], "content": unready}
    for code in codes:
        operation["responses"][code] = {"description": _ERRORS[code], "content": error}
    return operation


def _embeddings(names: list[str]) -> dict[str, Any]:
    text = {"type": "string", "pattern": r"\S"}
    return _object(
        {
            "model": {"type": "string", "enum": names},
            "input": {"anyOf": [text, {"type": "array", "items": text, "minItems": 1}]},
            "encoding_format": {"type": "string", "enum": ["float", "base64"]},
        },
        ["model", "input"],
    )


def _chat(names: list[str]) -> dict[str, Any]:
    message = _object(
        {
            "role": {"type": "string", "enum": ["system", "user", "assistant"]},
            "content": {"type": "string"},
        },
        ["role", "content"],
    )
    return _object(
        {
            "model": {"type": "string", "enum": names},
            "messages": {"type": "array", "items": message, "minItems": 1},
            "max_tokens": {"type": "integer", "minimum": 1},
            "stream": {"type": "boolean"},
        },
        ["model", "messages"],
    )
