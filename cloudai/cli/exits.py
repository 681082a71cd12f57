"""Exit codes, for scripts; ``docs/cli.md`` has the same table, and a test compares them."""

from __future__ import annotations

from typing import Final

from cloudai import errors

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
CONFIG: Final = 3
AUTH: Final = 4
CONFLICT: Final = 5
TIMEOUT: Final = 6
UNSUPPORTED: Final = 7
LATER: Final = 8
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

MEANINGS: Final[dict[int, str]] = {
    OK: "done",
    FAILED: "the job, the endpoint or the handler failed, or anything not below",
    USAGE: "bad usage or bad input; nothing was sent",
    CONFIG: "a profile, key, provider or model name that cannot be used",
    AUTH: "no credential, a refused one, or one without the right",
    CONFLICT: "no such thing, or its name or state is in the way",
    TIMEOUT: "the time allowed is over; a job goes on",
    UNSUPPORTED: "the provider cannot do it, or a package is not installed",
    LATER: "a passing failure, a quota or no capacity: try again later",
    INTERRUPTED: "interrupted with ctrl-C",
    BROKEN_PIPE: "the reader of the output went away",
}

_CODES: Final[tuple[tuple[type[errors.CloudAIError], int], ...]] = (
    # The first class that fits counts, so subclasses stand before their bases.
    (errors.MissingExtra, UNSUPPORTED),
    (errors.UnsupportedByProvider, UNSUPPORTED),
    (errors.CallTimeout, TIMEOUT),
    (errors.WaitTimeout, TIMEOUT),
    (errors.ConfigError, CONFIG),
    (errors.InvalidRequest, USAGE),
    (errors.AuthenticationError, AUTH),
    (errors.NotFound, CONFLICT),
    (errors.Conflict, CONFLICT),
    (errors.TransientError, LATER),
    (errors.QuotaExceeded, LATER),
    (errors.CapacityError, LATER),
)


def code(error: BaseException) -> int:
    """The exit code for an error."""
    for kind, number in _CODES:
        if isinstance(error, kind):
            return number
    return FAILED
