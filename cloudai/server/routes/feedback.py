"""What the true answers were, told later: accuracy by model version, in /metrics.

The caller sends the prediction with its true label, so that nothing is kept between the two and any
replica may be told.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cloudai.server.config import Limits
from cloudai.server.http.errors import HTTPError
from cloudai.server.http.messages import Request, Response
from cloudai.server.inference import Inference
from cloudai.server.routes.codecs import check_depth, decode
from cloudai.server.routing import Table

MOST_BYTES: Final = 1 << 20
"""Of a body: unlike others it is decoded whole in the front."""


class Feedback(msgspec.Struct, forbid_unknown_fields=True):
    """One prediction and what it should have been.

    Parameters
    ----------
    prediction: as the server answered it; of an object with a ``label``, the label counts.
    label: the true one. model, variant: who answered; absent: the first.
    """

    prediction: Any
    label: Any
    model: str | msgspec.UnsetType = msgspec.UNSET
    variant: str | msgspec.UnsetType = msgspec.UNSET


class Many(msgspec.Struct):
    feedback: list[Feedback]


_many = msgspec.json.Decoder(Many)


async def feedback(inference: Inference, request: Request) -> Response:
    """``{"feedback": [{"prediction", "label", "model"?, "variant"?}, …]}`` → how many were
    right. All are counted, or none where one names what there is not."""
    if request.content_type != "application/json":
        raise HTTPError(415, f"the content type {request.content_type!r} is not JSON")
    asked = await request.read(_read, inference.limits)
    told: list[tuple[tuple[str, str, str], bool]] = []
    for one in asked.feedback:
        model = inference.models.get(None if one.model is msgspec.UNSET else one.model)
        variant = model.variants[0] if one.variant is msgspec.UNSET else model.choose(one.variant)
        told.append(((model.name, variant.name, variant.version), _right(one)))
    for who, right in told:
        inference.metrics.feedback.add(1, *who, "true" if right else "false")
        inference.metrics.accuracy.add(right, 1, *who)
    counts = {"counted": len(told), "correct": sum(right for _, right in told)}
    return Response(msgspec.json.encode(counts))


def _read(body: bytes, limits: Limits) -> Many:
    if len(body) > MOST_BYTES:
        raise HTTPError(413, f"the body has more than {MOST_BYTES} bytes")
    check_depth(body, limits.depth)
    asked: Many = decode(_many, body)
    if len(asked.feedback) > limits.items:
        raise HTTPError(400, f"{len(asked.feedback)} are more than {limits.items}")
    return asked


def _right(one: Feedback) -> bool:
    prediction = one.prediction
    if isinstance(prediction, dict) and "label" in prediction and not isinstance(one.label, dict):
        prediction = prediction["label"]
    return prediction == one.label


def add(table: Table) -> None:
    """Puts this route into the table."""
    table.add("POST", "/feedback", "feedback", feedback)
