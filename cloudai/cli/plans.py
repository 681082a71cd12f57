"""``--plan``: what a submission would do."""

from __future__ import annotations

import msgspec

from cloudai.cli.context import CommandContext
from cloudai.cli.exits import OK, USAGE
from cloudai.types import Plan


def show(session: CommandContext, plan: Plan) -> int:
    """Prints a plan; the exit code is that of bad input where the submission would be refused."""
    if session.json:
        session.document({**msgspec.to_builtins(plan), "ok": plan.ok})
        return OK if plan.ok else USAGE
    for request in plan.requests:
        session.say(request.operation)
        body = msgspec.json.format(msgspec.json.encode(request.body), indent=2).decode()
        session.say("\n".join(f"  {line}" for line in body.splitlines()))
    for violation in plan.violations:
        session.say(f"refused: {violation}")
    for loss in plan.dropped:
        session.say(f"lost: {loss}")
    if plan.cost is not None:
        cost = plan.cost
        session.say(f"cost: ${cost.low:.2f} to ${cost.high:.2f}, {cost.basis} ({cost.as_of})")
    return OK if plan.ok else USAGE
