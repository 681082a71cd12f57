"""Requests held against botocore's models of the services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import botocore.session

from cloudai.formats import botocore_limits as limits
from cloudai.testing.emulators.aws._state import Refused

_session: Final = botocore.session.Session()


def refuse(service: str, operation: str, parameters: Mapping[str, Any]) -> None:
    """Raises AWS's ValidationException for a request that its service model does not allow."""
    shape = _session.get_service_model(service).operation_model(operation).input_shape
    problems = list(limits.check(shape, parameters))
    if problems:
        told = "; ".join(f"Value at '{where}' {text}" for where, text in problems)
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected"
        raise Refused("ValidationException", f"{count}: {told}")
