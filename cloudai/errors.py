"""Every error that cloudai raises, as one tree.

::

    CloudAIError
    ├── ConfigError                 a profile, key, provider or model name that cannot be used
    │   └── MissingExtra            a package is not installed; names the pip command
    ├── InvalidRequest              a request that cannot be sent; names field, value, mend
    │   ├── ContextOverflow         more tokens than the model holds; names both numbers
    │   └── UnsupportedByProvider   the provider truly cannot do it; names the alternative
    ├── AuthenticationError         no credential, or a refused one
    │   └── PermissionDenied        a good credential without the right
    ├── NotFound                    no such job, model, endpoint, secret or bucket
    ├── Conflict                    the name is taken, or the resource is in another state
    ├── QuotaExceeded               a quota that waiting seconds does not mend
    ├── CapacityError               the provider has no machine of that kind now
    ├── ContentFiltered             the provider's safety system withheld the answer
    ├── TransientError              worth another try (``retryable`` is True)
    │   ├── RateLimited             429; ``retry_after`` says when
    │   ├── ServiceUnavailable      5xx
    │   ├── ConnectionFailed        no connection, or one that broke
    │   │   └── CertificateRefused  a TLS certificate that is not trusted; never tried again
    │   └── CallTimeout             one call outlasted its deadline
    ├── ProviderError               an answer that cloudai cannot make sense of
    ├── StreamTruncated             a stream ended without its end; keeps what came
    ├── JobError                    a job ended, and not in success
    │   ├── JobFailed, JobCancelled, JobTimedOut, JobPreempted, JobExpired, JobPartial
    │   └── JobCapacityError        a JobFailed that is a CapacityError too
    ├── WaitTimeout                 ``wait(timeout=)`` is over; the job itself goes on
    ├── EndpointError               an endpoint that did not come up; keeps the server's own log
    ├── HandlerError                the user's ``load`` or ``predict`` failed
    └── StateError                  the ledger or a local state file cannot be used

All of them pickle, and none of them ever holds a secret. ``ModelEnds`` is a warning.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AuthenticationError",
    "CallTimeout",
    "CapacityError",
    "CertificateRefused",
    "CloudAIError",
    "ConfigError",
    "Conflict",
    "ConnectionFailed",
    "ContentFiltered",
    "ContextOverflow",
    "EndpointError",
    "HandlerError",
    "InvalidRequest",
    "JobCancelled",
    "JobCapacityError",
    "JobError",
    "JobExpired",
    "JobFailed",
    "JobPartial",
    "JobPreempted",
    "JobTimedOut",
    "MissingExtra",
    "ModelEnds",
    "NotFound",
    "PermissionDenied",
    "ProviderError",
    "QuotaExceeded",
    "RateLimited",
    "ServiceUnavailable",
    "StateError",
    "StreamTruncated",
    "TransientError",
    "UnsupportedByProvider",
    "WaitTimeout",
]


class CloudAIError(Exception):
    """The root of the tree.

    Parameters
    ----------
    message: what happened, in one sentence; the mend follows in ``hint``.
    provider: the provider's name, such as ``"aws"``; None where no provider took part.
    code: the vendor's own error code, such as ``"ThrottlingException"``.
    status: the HTTP status, where there was one.
    request_id: the vendor's id of the failed request, for its support.
    retry_after: seconds the vendor asked to wait.
    hint: what to do about it.
    ambiguous: True when the request may have taken effect although no answer came
        (the connection broke after it was sent). A create is then looked up before
        it is sent again.
    reply: what had been answered, a ``cloudai.ChatReply``, where an answer came and cannot be
        given as it was asked for.
    """

    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        code: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        hint: str | None = None,
        ambiguous: bool = False,
        reply: Any = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.code = code
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.hint = hint
        self.ambiguous = ambiguous
        self.reply = reply

    def __str__(self) -> str:
        text = f"{self.provider}: {self.message}" if self.provider else self.message
        if self.hint:
            text = f"{text.rstrip('.')}. {self.hint}"
        about = ", ".join(
            f"{name} {value}"
            for name, value in (("code", self.code), ("request", self.request_id))
            if value
        )
        return f"{text} ({about})" if about else text

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by re-calling the class with ``args``; ours take keywords.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(cls: type[CloudAIError], args: tuple[Any, ...], state: dict[str, Any]) -> CloudAIError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(CloudAIError):
    """A profile, a key, a provider or a model name that cannot be used."""


class MissingExtra(ConfigError):
    """A package that this provider needs is not installed.

    Parameters
    ----------
    package: the distribution that is missing.
    extra: the extra of cloudai that brings it.
    """

    def __init__(self, package: str, *, extra: str, provider: str | None = None) -> None:
        super().__init__(
            f"the package {package!r} is not installed",
            provider=provider,
            hint=f"Install it with: pip install 'cloudai[{extra}]'",
        )
        self.package = package
        self.extra = extra


class InvalidRequest(CloudAIError, ValueError):
    """A request that cannot be sent as it is. Raised before anything is sent or spent,
    or mapped from the vendor's own validation error.

    Parameters
    ----------
    field: the path of the offending field, such as ``"resources.nodes"``.
    value: the offending value; shortened in the message.
    """

    def __init__(
        self, message: str, *, field: str | None = None, value: Any = None, **about: Any
    ) -> None:
        super().__init__(message, **about)
        self.field = field
        self.value = value


class ContextOverflow(InvalidRequest):
    """The prompt and the room for the answer exceed the model's context.

    Parameters
    ----------
    tokens: what the request needs; None where the provider does not say.
    limit: what the model holds; None where the provider does not say.
    """

    def __init__(
        self, message: str, *, tokens: int | None = None, limit: int | None = None, **about: Any
    ) -> None:
        super().__init__(message, **about)
        self.tokens = tokens
        self.limit = limit


class UnsupportedByProvider(InvalidRequest):
    """What this provider truly cannot do.

    Parameters
    ----------
    feature: what was asked for.
    alternative: what does it instead, on this provider or on another.
    """

    def __init__(self, feature: str, *, provider: str, alternative: str, **about: Any) -> None:
        super().__init__(
            f"{feature} is not supported", provider=provider, hint=alternative, **about
        )
        self.feature = feature
        self.alternative = alternative


class AuthenticationError(CloudAIError):
    """No credential was found, or the one found was refused."""


class PermissionDenied(AuthenticationError):
    """The credential is good and lacks the right to do this."""


class NotFound(CloudAIError, LookupError):
    """No such job, model, deployment, endpoint, secret, file or bucket."""


class Conflict(CloudAIError):
    """The name is taken, or the resource is in a state that forbids this."""


class QuotaExceeded(CloudAIError):
    """A quota that waiting some seconds does not mend."""


class CapacityError(CloudAIError):
    """The provider has no machine of that kind now."""


class ContentFiltered(CloudAIError):
    """The provider's safety system refused the request or withheld the answer."""


class ModelEnds(UserWarning):
    """A model was asked that has ended, or ends within two months, as far as it is published."""


class TransientError(CloudAIError):
    """A failure worth another try."""

    retryable = True


class RateLimited(TransientError):
    """Too many requests; ``retry_after`` says how many seconds to wait, if the vendor said."""


class ServiceUnavailable(TransientError):
    """The service failed on its own side (HTTP 5xx)."""


class ConnectionFailed(TransientError):
    """No connection could be made, or it broke."""


class CertificateRefused(ConnectionFailed):
    """The TLS certificate of the service, or of a proxy on the way, is not trusted. Trying again
    does not mend it; another profile may be asked."""

    retryable = False


class CallTimeout(TransientError, TimeoutError):
    """One call outlasted its deadline."""


class ProviderError(CloudAIError):
    """The provider answered something that cloudai cannot make sense of."""


class StreamTruncated(CloudAIError):
    """A stream ended without its terminator. It is never reported as success, and never
    retried after its first chunk.

    Parameters
    ----------
    text: the text that had come.
    usage: the usage that had come (a ``cloudai.Usage``), or None.
    """

    def __init__(self, message: str, *, text: str = "", usage: Any = None, **about: Any) -> None:
        super().__init__(message, **about)
        self.text = text
        self.usage = usage


class JobError(CloudAIError):
    """A job ended, and not in success.

    Parameters
    ----------
    state: the neutral state, a ``cloudai.State``.
    id: the handle's URI.
    reason: the provider's own reason.
    exit_code: of the script, where there was one; 128 + signal when a signal ended it.
    log_tail: the last lines of its log.
    """

    def __init__(
        self,
        message: str,
        *,
        state: Any = None,
        id: str | None = None,
        reason: str | None = None,
        exit_code: int | None = None,
        log_tail: tuple[str, ...] = (),
        **about: Any,
    ) -> None:
        super().__init__(message, **about)
        self.state = state
        self.id = id
        self.reason = reason
        self.exit_code = exit_code
        self.log_tail = log_tail

    def __str__(self) -> str:
        text = super().__str__()
        return "\n".join([text, *(f"    {line}" for line in self.log_tail)])


class JobFailed(JobError):
    """The job's own work failed."""


class JobCapacityError(JobFailed, CapacityError):
    """The job failed since the provider had no machine of that kind."""


class JobCancelled(JobError):
    """The job was cancelled."""


class JobTimedOut(JobError):
    """The job outlasted its ``timeout`` and was stopped."""


class JobPreempted(JobError):
    """The job's machine was taken back, and it was not restarted."""


class JobExpired(JobError):
    """The job's window closed before it could finish."""


class JobPartial(JobError):
    """A part of the job's work succeeded; the rest is in its errors."""


class WaitTimeout(CloudAIError, TimeoutError):
    """``wait(timeout=)`` is over. The job itself goes on; wait again, or cancel it."""


class EndpointError(CloudAIError):
    """An endpoint that did not come up, or died.

    Parameters
    ----------
    log_tail: the last lines of the server's own log.
    """

    def __init__(self, message: str, *, log_tail: tuple[str, ...] = (), **about: Any) -> None:
        super().__init__(message, **about)
        self.log_tail = log_tail

    def __str__(self) -> str:
        text = super().__str__()
        return "\n".join([text, *(f"    {line}" for line in self.log_tail)])


class HandlerError(CloudAIError):
    """The user's ``load`` or ``predict`` failed, or broke its contract."""


class StateError(CloudAIError):
    """The ledger or a local state file cannot be read or written."""
