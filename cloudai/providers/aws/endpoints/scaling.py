"""Autoscaling of endpoints. The rules are kept as a tag of the endpoint, so that any process sets
them up once it is in service (before, SageMaker knows no variant to scale), and takes them down."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from cloudai.errors import NotFound
from cloudai.protocols import Call
from cloudai.providers.aws import tags
from cloudai.providers.aws.endpoints import scaling_wire as wire
from cloudai.providers.aws.session import AwsSession

_SERVICE: Final = "application-autoscaling"


class Scaler:
    """The scaling of a session's endpoints."""

    def __init__(self, session: AwsSession) -> None:
        self._session = session
        self._set_up: set[str] = set()

    def rules(self, arn: str, call: Call) -> list[wire.Rule]:
        """The rules that an endpoint was given."""
        return wire.parse(tags.of(self._session, arn, call).get(wire.TAG, ""))

    def keep(self, arn: str, rules: list[wire.Rule], call: Call) -> None:
        """Notes other rules for an endpoint."""
        if rules:
            tag = {"Key": wire.TAG, "Value": wire.tag(rules)}
            self._session.call("sagemaker", "add_tags", call, ResourceArn=arn, Tags=[tag])
        else:
            self._session.call(
                "sagemaker", "delete_tags", call, ResourceArn=arn, TagKeys=[wire.TAG]
            )

    def set_up(self, id: str, arn: str, variants: set[str], call: Call) -> None:
        """Sets up the scaling of an endpoint in service, once a process; doing it again changes
        nothing."""
        if id in self._set_up:
            return
        for rule in self.rules(arn, call):
            if rule.variant not in variants:
                continue  # of an update that was rolled back
            self._session.call(_SERVICE, "register_scalable_target", call, **wire.target(id, rule))
            self._session.call(_SERVICE, "put_scaling_policy", call, **wire.policy(id, rule))
            if rule.from_zero:
                made = self._session.call(
                    _SERVICE, "put_scaling_policy", call, **wire.wake_policy(id, rule)
                )
                alarm = wire.wake_alarm(id, rule, made["PolicyARN"])
                self._session.call("cloudwatch", "put_metric_alarm", call, **alarm)
        self._set_up.add(id)

    def anew(self, id: str) -> None:
        """Has the scaling set up again at the next look."""
        self._set_up.discard(id)

    def take_down(self, id: str, rules: list[wire.Rule], call: Call) -> None:
        """Removes the scaling of these variants, with its policies and alarms."""
        for rule in rules:
            about = wire.scalable(id, rule.variant)
            with suppress(NotFound):
                self._session.call(_SERVICE, "deregister_scalable_target", call, **about)
            if rule.from_zero:
                name = wire.wake_name(id, rule)
                self._session.call("cloudwatch", "delete_alarms", call, AlarmNames=[name])
        self._set_up.discard(id)
