"""AWS's error codes as cloudai's errors: one table for all services.

A test walks botocore's models of the services that are used here, and wants every code of theirs
in the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from botocore import exceptions as sdk

from cloudai._core.calls.failures import by_status, late, retry_after
from cloudai._core.calls.http import Answer
from cloudai.errors import (
    AuthenticationError,
    CallTimeout,
    CapacityError,
    CloudAIError,
    ConfigError,
    Conflict,
    ConnectionFailed,
    ContentFiltered,
    ContextOverflow,
    HandlerError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProviderError,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
)

T = TypeVar("T")


def _rows(kind: type[CloudAIError], codes: str) -> dict[str, type[CloudAIError]]:
    return dict.fromkeys(codes.split(), kind)


CODES: Final[dict[str, type[CloudAIError]]] = {
    **_rows(
        RateLimited,
        "ThrottlingException Throttling ThrottledException RequestThrottled SlowDown "
        "RequestThrottledException TooManyRequestsException RequestLimitExceeded "
        "BandwidthLimitExceeded PriorRequestNotComplete EC2ThrottledException "
        "LimitExceededExceptionThrottle TransactionInProgressException SlowDownException",
    ),
    **_rows(
        ServiceUnavailable,
        "InternalFailure InternalError InternalServerError InternalServerException "
        "InternalServiceError InternalServiceException InternalServiceErrorException "
        "ServiceUnavailable ServiceUnavailableException InternalDependencyException "
        "ServerInternalException ModelNotReadyException FailedResourceAccessException "
        "IDPCommunicationError ConcurrentModificationException ConcurrentUpdateException "
        "OperationAborted OperationAbortedException",
    ),
    **_rows(CallTimeout, "ModelTimeoutException RequestTimeout RequestTimeoutException"),
    # The rest of a stream is lost; the core tells it as StreamTruncated.
    **_rows(
        ConnectionFailed,
        "InternalStreamFailure InternalStreamingException ModelStreamError "
        "ModelStreamErrorException SessionStreamingException SessionTimeoutException",
    ),
    **_rows(
        NotFound,
        "ResourceNotFound ResourceNotFoundException NoSuchBucket NoSuchKey NoSuchUpload "
        "NoSuchAnnotation NoSuchEntity NotFound 404 ObjectNotFoundException ParameterNotFound "
        "ParameterVersionNotFound DataAccessNotFound RepositoryNotFoundException "
        "KmsKeyNotFoundException",
    ),
    **_rows(
        Conflict,
        "ResourceInUse ResourceInUseException ResourceAlreadyExists ResourceExistsException "
        "ResourceAlreadyExistsException ConflictException BucketAlreadyExists "
        "BucketAlreadyOwnedByYou IdempotencyParameterMismatch IdempotentParameterMismatch "
        "ObjectAlreadyInActiveTierError ObjectNotInActiveTierError InvalidObjectState "
        "DataAlreadyAcceptedException InvalidSequenceTokenException PreconditionFailed "
        "PreconditionNotMetException InvalidOperationException ResourceConflict "
        "KmsKeyDisabledException",
    ),
    **_rows(
        QuotaExceeded,
        "ResourceLimitExceeded ServiceQuotaExceededException LimitExceededException "
        "TooManyTagsException AnnotationLimitExceeded TooManyParts LimitExceeded",
    ),
    **_rows(
        CapacityError,
        "CapacityError InsufficientCapacityError InsufficientInstanceCapacity",
    ),
    **_rows(
        AuthenticationError,
        "UnrecognizedClientException InvalidClientTokenId InvalidSignatureException "
        "SignatureDoesNotMatch MissingAuthenticationToken MissingAuthenticationTokenException "
        "IncompleteSignature IncompleteSignatureException InvalidAccessKeyId ExpiredToken "
        "ExpiredTokenException ExpiredTradeInTokenException RequestExpired InvalidToken "
        "TokenRefreshRequired RequestTimeTooSkewed InvalidIdentityToken IDPRejectedClaim "
        "InvalidAuthorizationMessageException UnauthorizedException InvalidGrantException "
        "InvalidClientException UnauthorizedClientException AuthorizationPendingException",
    ),
    **_rows(
        PermissionDenied,
        "AccessDenied AccessDeniedException NotAuthorized OptInRequired 403 Forbidden "
        "RegionDisabledException SessionDurationEscalationException PublicPolicyException "
        "OutboundWebIdentityFederationDisabledException DecryptionFailure EncryptionFailure "
        "KmsAccessDeniedException",
    ),
    **_rows(
        InvalidRequest,
        "ValidationException ValidationError InvalidParameterException InvalidParameterValue "
        "InvalidParameterCombination InvalidRequest InvalidRequestException InvalidAction "
        "InvalidQueryParameter MalformedQueryString MalformedQueryException MissingParameter "
        "MissingAction SerializationException InvalidBucketName InvalidArgument InvalidPrefix "
        "InvalidAnnotationName AnnotationNameTooLong InvalidWriteOffset EncryptionTypeMismatch "
        "UnsupportedMediaType EntityTooLarge EntityTooSmall InvalidKeyId InvalidNextTokenException "
        "PaginationTokenExpiredException ConstraintViolationException MalformedPolicyDocument "
        "MalformedPolicyDocumentException PackedPolicyTooLarge JWTPayloadSizeExceededException "
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException "
        "UnknownOperationException 400 301 InvalidFormat InvalidNextToken InvalidParameterInput "
        "InvalidScopeException InvalidClientMetadataException UnsupportedGrantTypeException "
        "InvalidRedirectUriException InvalidRequestRegionException",
    ),
    # SageMaker's is the user's own code, Bedrock's the vendor's model.
    **_rows(HandlerError, "ModelError"),
    **_rows(ProviderError, "ModelErrorException"),
}
"""Code → class. The lists are those of the service models in botocore 1.44 (2026-11), and of
AWS's "Common errors" pages (read 2026-11)."""

EXPIRED: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "UnrecognizedClientException"}
)
"""Codes that say: these credentials are over (or were replaced)."""

# Bedrock's own: a model that took too long, and one that failed.
_STATUS: Final[dict[int, type[CloudAIError]]] = {408: CallTimeout, 424: ProviderError}

_MISSING: Final = re.compile(
    r"could not find|does not exist|not found|no such|RecordNotFound|model identifier is invalid",
    re.IGNORECASE,
)
_TAKEN: Final = re.compile(r"already exist|cannot create already existing", re.IGNORECASE)
# Refused states that another try in a while may find changed.
_STATE: Final = re.compile(
    r"cannot update in-progress|is in status|already in progress|in state", re.IGNORECASE
)
_TOO_LONG: Final = re.compile(
    r"too long|too many (input )?tokens|maximum context|context length|context window|"
    r"exceeds? the (model'?s )?max(imum)?|exceeds? context limit",
    re.IGNORECASE,
)
_NUMBERS: Final = re.compile(r"(\d{3,})\D+(\d{3,})")
# "input length and `max_tokens` exceed context limit: 198000 + 8192 > 200000"
_SUM: Final = re.compile(r"(\d+) \+ (\d+) > (\d+)")
_FILTERED: Final = re.compile(r"content (filter|policy)|blocked by|guardrail", re.IGNORECASE)


def make(
    code: str,
    message: str,
    *,
    status: int | None = None,
    request_id: str | None = None,
    retry_after: float | None = None,
) -> CloudAIError:
    """The error for a code, with AWS's message."""
    kind = CODES.get(code) or _STATUS.get(status or 0) or by_status(status)
    if not message or message.lstrip().startswith("<"):  # a proxy's page, not AWS's words
        message = f"AWS answered {status or code}"
    text = message
    about: dict[str, Any] = {
        "provider": "aws",
        "code": code,
        "status": status,
        "request_id": request_id,
        "retry_after": retry_after,
        # After a failure of the service's own nobody knows what it did.
        "ambiguous": issubclass(kind, (ServiceUnavailable, CallTimeout, ConnectionFailed)),
    }
    if kind is InvalidRequest:
        if (_TOO_LONG.search(text) and "token" in text.lower()) or "Input is too long" in text:
            plain = text.replace(",", "")
            tokens = limit = None
            if parts := _SUM.search(plain):
                tokens, limit = int(parts[1]) + int(parts[2]), int(parts[3])
            elif numbers := _NUMBERS.search(plain):
                tokens, limit = int(numbers[1]), int(numbers[2])
            return ContextOverflow(
                text,
                tokens=tokens,
                limit=limit,
                hint="Shorten the conversation, or ask a model with a larger context",
                **about,
            )
        # SageMaker says ValidationException for what other services have codes for.
        if _TAKEN.search(text):
            kind = Conflict
        elif _MISSING.search(text):
            kind = NotFound
        elif _STATE.search(text):
            kind = Conflict
        elif _FILTERED.search(text):
            kind = ContentFiltered
    elif kind is AuthenticationError and code in EXPIRED:
        about["hint"] = "The credentials have expired: aws sso login, or get new ones"
    return kind(text, **about)


def from_sdk(error: Exception) -> CloudAIError:
    """An exception of botocore or boto3 as one of ours."""
    if isinstance(error, CloudAIError):
        return error
    if isinstance(error, sdk.ClientError):
        return _from_client_error(error)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, CloudAIError):
        return cause
    if isinstance(error, (sdk.NoCredentialsError, sdk.PartialCredentialsError)):
        return AuthenticationError(
            "no AWS credentials were found",
            provider="aws",
            hint="Set AWS_PROFILE or AWS_ACCESS_KEY_ID, run aws sso login, or name profile "
            "in cloudai.toml",
        )
    if isinstance(
        error,
        (
            sdk.CredentialRetrievalError,
            sdk.SSOError,
            sdk.TokenRetrievalError,
            sdk.RefreshWithMFAUnsupportedError,
        ),
    ):
        return AuthenticationError(
            str(error), provider="aws", hint="For a profile of AWS SSO: aws sso login"
        )
    if isinstance(error, (sdk.NoRegionError, sdk.InvalidConfigError, sdk.ProfileNotFound)):
        return ConfigError(str(error), provider="aws")
    if isinstance(error, (sdk.ParamValidationError, sdk.ValidationError)):
        return InvalidRequest(str(error), provider="aws")
    if isinstance(error, sdk.ReadTimeoutError):  # while an object was read
        return late("aws", "the service")
    if isinstance(error, sdk.HTTPClientError):
        return ConnectionFailed(str(error), provider="aws", ambiguous=True)
    return ProviderError(f"{type(error).__name__}: {error}", provider="aws")


def _from_client_error(error: sdk.ClientError) -> CloudAIError:
    about: Any = error.response
    fault: Mapping[str, Any] = about.get("Error", {})
    meta: Mapping[str, Any] = about.get("ResponseMetadata", {})
    headers: Mapping[str, str] = meta.get("HTTPHeaders", {})
    return make(
        str(fault.get("Code", "")),
        str(fault.get("Message", "")),
        status=meta.get("HTTPStatusCode"),
        request_id=meta.get("RequestId"),
        retry_after=retry_after(headers),
    )


def mapped(work: Callable[[], T]) -> T:
    """``work()``, with botocore's exceptions as ours."""
    try:
        return work()
    except CloudAIError:
        raise
    except (sdk.BotoCoreError, sdk.ClientError) as error:
        raise from_sdk(error) from _bare(error)
    except Exception as error:
        # botocore's parsers have an exception beside its tree.
        if type(error).__module__.startswith(("boto3", "botocore", "s3transfer")):
            raise from_sdk(error) from error
        raise


def _bare(error: Exception) -> Exception | None:
    """The SDK's exception as a cause, unless it carries the request's own values."""
    return None if isinstance(error, sdk.ParamValidationError) else error


class _Fault(msgspec.Struct):
    message: str | None = None
    Message: str | None = None
    type: str | None = msgspec.field(default=None, name="__type")
    code: str | None = None
    OriginalMessage: str | None = None


_decode: Final = msgspec.json.Decoder(_Fault, strict=False)


def from_response(service: str, operation: str, response: Answer) -> CloudAIError:
    """The error in a runtime service's answer of 300 and above."""
    body, headers, status = response.data, response.headers, response.status
    try:
        fault = _decode.decode(body)
    except msgspec.DecodeError:
        fault = _Fault(message=body[:200].decode("utf-8", "replace").strip() or None)
    code = headers.get("x-amzn-ErrorType") or fault.type or fault.code or ""
    # Such as "com.amazonaws.bedrock#ThrottlingException:http://…".
    code = code.partition(":")[0].rpartition("#")[2]
    message = fault.message or fault.Message or ""
    if fault.OriginalMessage:
        message = f"{message} The model said: {fault.OriginalMessage}"
    return make(
        code,
        message or f"{service}:{operation} answered {status}",
        status=status,
        request_id=headers.get("x-amzn-RequestId"),
        retry_after=retry_after(headers),
    )


def from_event(kind: str, message: str, request_id: str | None) -> CloudAIError:
    """The error that an event stream carries, such as ``throttlingException``."""
    return make(kind[:1].upper() + kind[1:], message, request_id=request_id)


def codes_of(shapes: Iterable[Any]) -> set[str]:
    """The codes of error shapes of a botocore model."""
    return {shape.metadata.get("error", {}).get("code") or shape.name for shape in shapes}
