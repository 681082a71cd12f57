"""Application Auto Scaling: how the variants of an endpoint scale."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cloudai._core.numerals import numeral
from cloudai.types import Deployment, Variant

TAG: Final = "cloudai:scaling"
"""The endpoint's tag that holds its rules."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """How one variant scales.

    Parameters
    ----------
    low, high: instances. rate: requests a second that one instance takes.
    later: whether the endpoint is an asynchronous one, which scales by its backlog.
    """

    variant: str
    low: int
    high: int
    rate: float
    later: bool = False

    @property
    def from_zero(self) -> bool:
        return self.later and self.low == 0


def scales(spec: Deployment, variant: Variant) -> bool:
    """Whether a variant is to scale; an asynchronous one without a least does so to zero."""
    if spec.mode == "serverless":
        return False
    return (variant.max or max(variant.min, 1)) > variant.min


def rules(spec: Deployment) -> list[Rule]:
    """The rules of the variants that scale."""
    return [
        Rule(
            variant=one.name,
            low=one.min,
            high=one.max or 1,
            rate=one.target,
            later=spec.mode == "async",
        )
        for one in spec.variants
        if scales(spec, one) and one.target is not None
    ]


def tag(rules: list[Rule]) -> str:
    """The rules as a tag's value: ``main=1:4:2.5``, and ``main=0:4:2.5:async``."""
    return " ".join(
        f"{one.variant}={one.low}:{one.high}:{numeral(one.rate)}{':async' if one.later else ''}"
        for one in rules
    )


def parse(text: str) -> list[Rule]:
    """What ``tag`` wrote."""
    found: list[Rule] = []
    for rule in text.split():
        name, _, numbers = rule.partition("=")
        low, high, rate, *later = numbers.split(":")
        found.append(
            Rule(variant=name, low=int(low), high=int(high), rate=float(rate), later=bool(later))
        )
    return found


def target(endpoint_name: str, rule: Rule) -> dict[str, Any]:
    """The arguments of RegisterScalableTarget."""
    about = scalable(endpoint_name, rule.variant)
    return {**about, "MinCapacity": rule.low, "MaxCapacity": rule.high}


def policy(endpoint_name: str, rule: Rule) -> dict[str, Any]:
    """The arguments of PutScalingPolicy. CloudWatch counts invocations a minute; of an
    asynchronous endpoint an instance may have as much before it as it does in a minute."""
    metric: dict[str, Any] = {
        "PredefinedMetricSpecification": {
            "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
        }
    }
    if rule.later:
        metric = {
            "CustomizedMetricSpecification": {
                **_metric(endpoint_name, "ApproximateBacklogSizePerInstance"),
                "Statistic": "Average",
            }
        }
    return {
        "PolicyName": f"cloudai-{endpoint_name}-{rule.variant}",
        **scalable(endpoint_name, rule.variant),
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {"TargetValue": rule.rate * 60, **metric},
    }


def wake_policy(endpoint_name: str, rule: Rule) -> dict[str, Any]:
    """The arguments of PutScalingPolicy that bring the first instance up again: target tracking
    has nothing to reckon with at zero (developer guide, "Autoscale an asynchronous endpoint",
    read 2026-11)."""
    return {
        "PolicyName": wake_name(endpoint_name, rule),
        **scalable(endpoint_name, rule.variant),
        "PolicyType": "StepScaling",
        "StepScalingPolicyConfiguration": {
            "AdjustmentType": "ChangeInCapacity",
            "MetricAggregationType": "Average",
            "Cooldown": 300,
            "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
        },
    }


def wake_alarm(endpoint_name: str, rule: Rule, arn: str) -> dict[str, Any]:
    """The arguments of PutMetricAlarm that set ``wake_policy`` off; ``arn`` is the policy's."""
    return {
        "AlarmName": wake_name(endpoint_name, rule),
        **_metric(endpoint_name, "HasBacklogWithoutCapacity"),
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 2,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
        "AlarmActions": [arn],
    }


def wake_name(endpoint_name: str, rule: Rule) -> str:
    """The name of both, the policy and its alarm."""
    return f"cloudai-{endpoint_name}-{rule.variant}-wake"


def _metric(endpoint_name: str, name: str) -> dict[str, Any]:
    return {
        "MetricName": name,
        "Namespace": "AWS/SageMaker",
        "Dimensions": [{"Name": "EndpointName", "Value": endpoint_name}],
    }


def scalable(endpoint_name: str, variant: str) -> dict[str, Any]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint_name}/variant/{variant}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
