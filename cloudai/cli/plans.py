"""``--plan``: what a submission would do."""

from __future__ import annotations

from typing import Final

import msgspec

from cloudai.cli.context import CommandContext
from cloudai.cli.exits import OK, USAGE
from cloudai.types import Plan

_SHOWN: Final = 40
"""Files of one upload; --json has all."""


def show(session: CommandContext, plan: Plan) -> int:
    """Prints a plan; the exit code is that of bad input where the submission would be refused."""
    if session.json:
        session.document({**msgspec.to_builtins(plan), "ok": plan.ok})
        return OK if plan.ok else USAGE
    for request in plan.requests:
        session.say(request.operation)
        body = msgspec.json.format(msgspec.json.encode(request.body), indent=2).decode()
        session.say("\n".join(f"  {line}" for line in body.splitlines()))
    for upload in plan.uploads:
        count = len(upload.files)
        session.say(f"sent: {upload.field}, {count} file{'s'[: count != 1]}, {upload.size:,} bytes")
        for name, size in upload.files[:_SHOWN]:
            session.say(f"  {name}  {size:,}")
        if count > _SHOWN:
            session.say(f"  and {count - _SHOWN} more")
        for one in upload.left_out[:_SHOWN]:
            session.say(f"  stays here: {one.path} ({one.why})")
        if len(upload.left_out) > _SHOWN:
            session.say(f"  and {len(upload.left_out) - _SHOWN} more stay here")
    for violation in plan.violations:
        session.say(f"refused: {violation}")
    for loss in plan.dropped:
        session.say(f"lost: {loss}")
    for note in plan.notes:
        session.say(f"note: {note}")
    if plan.cost is not None:
        cost = plan.cost
        session.say(f"cost: ${cost.low:.2f} to ${cost.high:.2f}, {cost.basis} ({cost.as_of})")
    return OK if plan.ok else USAGE
