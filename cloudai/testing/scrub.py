"""Takes secrets out of recorded exchanges, as the test proxy of the Azure SDKs does.

A value is a secret by the name of its header, parameter or field; by the service that tells it
(Key Vault, Secret Manager, Parameter Store, ``listKeys``); by the name beside it
(``{"name": "HF_TOKEN", "value": …}``); or by what it says (a signed address, a connection string).
What was found so is hidden wherever else it occurs, in any exchange that comes after.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from cloudai.testing.cassette import Exchange, Response

HIDDEN: Final = "SCRUBBED"
"""What stands in a cassette in the place of a secret."""

HEADERS: Final = frozenset(
    {
        "api-key", "authorization", "cookie", "metadata-flavor-token", "ocp-apim-subscription-key",
        "proxy-authorization", "set-cookie", "x-amz-security-token", "x-api-key",
        "x-aws-ec2-metadata-token", "x-goog-api-key", "x-identity-header",
        "x-ms-authorization-auxiliary", "x-ms-encryption-key",
    }
)  # fmt: skip
FIELDS: Final = frozenset(
    {
        "accesskeyid", "accesstoken", "accountkey", "adminpassword", "apikey", "assertion",
        "authorizationtoken", "bearertoken", "clientassertion", "clientsecret", "connectionstring",
        "idtoken", "key1", "key2", "passphrase", "password", "primaryconnectionstring",
        "primarykey", "privatekey", "refreshtoken", "sastoken", "sasuri",
        "secondaryconnectionstring",
        "secondarykey", "secretaccesskey", "secretbinary", "secretkey", "secretstring",
        "sessiontoken", "subjecttoken", "xamzcredential", "xamzsecuritytoken", "xamzsignature",
        "xgoogcredential", "xgoogsignature",
    }
)  # fmt: skip
"""Names, in lower case and without ``-`` and ``_``, whose values are secrets."""
_PARAMETERS: Final = FIELDS | {"key", "secret", "sig", "token"}
"""Of addresses and forms; in JSON these are ordinary words: a key of a map, a token of a text."""

_VARIABLE: Final = re.compile(
    r"(?:[A-Z0-9_]*_)?(?:API_?KEY|ACCESS_?KEY|ACCOUNT_?KEY|PRIVATE_?KEY|SECRET(?:_KEY)?|TOKEN"
    r"|PASSWORD|PASSWD|PASSPHRASE|PWD|CREDENTIALS?|CONNECTION_?STRING|SAS)(?:_[A-Z0-9_]*)?\Z"
)
"""An environment variable that holds a secret."""
_IN_TEXT: Final = re.compile(
    r"(?i)(?<![\w-])(sig|x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature"
    r"|x-goog-credential|accountkey|sharedaccesskey|sharedaccesssignature)=([^&;\"'\s<>\\]+)"
)
_IN_XML: Final = re.compile(r"<(AccessKeyId|SecretAccessKey|SessionToken|Password)>([^<]+)</\1>")
_LISTED: Final = re.compile(
    r"(?i)/(?:list|regenerate)\w*(?:keys?|secrets|credentials|sas|tokens?)\Z"
)
"""Operations of Azure whose answers are secrets (as remembered; not looked up)."""
_ABOUT: Final = frozenset(
    {"creationtime", "expirytimeutc", "id", "keyname", "name", "permissions", "secretstype", "type"}
)  # fmt: skip

_SHORTEST: Final = 8
"""A learned value shorter than this is not looked for elsewhere: it would hit by chance."""
_GZIP: Final = b"\x1f\x8b"


def unpack(body: bytes) -> bytes:
    """A gzip body's content; of one that broke off, what had come."""
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body)


def _repacked(exchange: Exchange, pack: Callable[[bytes], bytes]) -> Exchange:
    """The exchange with its answer's body packed or unpacked, which no longer comes in pieces."""
    body = pack(exchange.response.body)
    response = msgspec.structs.replace(exchange.response, body=body, chunks=())
    return msgspec.structs.replace(exchange, response=response)


class Scrubber:
    """Takes secrets out of exchanges.

    Parameters
    ----------
    secrets: further values to hide.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._values = {value for value in secrets if value}

    def exchange(self, exchange: Exchange) -> Exchange:
        """The exchange without its secrets."""
        # Names first, over the whole exchange, so that what they teach is hidden everywhere.
        packed = exchange.response.body[:2] == _GZIP
        if packed:
            exchange = _repacked(exchange, unpack)
        headers = self._headers(exchange.headers)
        uri = self._uri(exchange.uri)
        body = self._body(exchange.body, exchange.headers, exchange.uri)
        response = exchange.response
        answered = self._headers(response.headers)
        told = self._body(response.body, response.headers, exchange.uri)
        done = msgspec.structs.replace(
            exchange,
            headers=self._plain_headers(headers),
            uri=self._plain(uri),
            body=self._plain_bytes(body),
            response=msgspec.structs.replace(
                response,
                headers=self._plain_headers(answered),
                body=self._plain_bytes(told),
                # A body of another length no longer comes in the pieces it came in.
                chunks=response.chunks if len(told) == len(response.body) else (),
            ),
        )
        return _repacked(done, gzip.compress) if packed else done

    def request(
        self, method: str, uri: str, headers: tuple[tuple[str, str], ...], body: bytes
    ) -> Exchange:
        """A request as it would stand in a cassette, to be compared with what does."""
        return self.exchange(
            Exchange(
                method=method,
                uri=uri,
                headers=headers,
                body=body,
                response=Response(status=0),
            )
        )

    def _learn(self, value: str) -> str:
        # "Bearer x" teaches x; a signature's own words are of no use elsewhere.
        for part in (value, *value.split()):
            if len(part) >= _SHORTEST and part.lower() not in {"bearer", HIDDEN.lower()}:
                self._values.add(part)
        return HIDDEN

    def _learn_all(self, value: Any) -> None:
        """Of a secret that is itself JSON, each text in it."""
        if isinstance(value, str):
            self._learn(value)
        elif isinstance(value, (dict, list)):
            for inner in value.values() if isinstance(value, dict) else value:
                self._learn_all(inner)

    def _secret(self, value: str) -> str:
        """Hides a field's value, and what it says in JSON or in base64."""
        if value == HIDDEN:
            return value
        try:
            self._learn_all(json.loads(value))
        except ValueError:
            with contextlib.suppress(ValueError):
                self._learn(base64.b64decode(value, validate=True).decode())
        return self._learn(value)

    def _headers(self, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple(
            (name, self._learn(value) if name.lower() in HEADERS else self._text(value))
            for name, value in headers
        )

    def _plain_headers(self, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple((name, self._plain(value)) for name, value in headers)

    def _uri(self, uri: str) -> str:
        parts = urlsplit(uri)
        return urlunsplit(parts._replace(query=self._form(parts.query)))

    def _form(self, text: str) -> str:
        pairs = parse_qsl(text, keep_blank_values=True)
        if not any(_bare(name) in _PARAMETERS for name, _ in pairs):
            return text
        return urlencode(
            [
                (name, self._learn(value) if _bare(name) in _PARAMETERS else value)
                for name, value in pairs
            ]
        )

    def _body(self, body: bytes, headers: Iterable[tuple[str, str]], uri: str) -> bytes:
        kind = next((value for name, value in headers if name.lower() == "content-type"), "")
        if "x-www-form-urlencoded" in kind:
            return self._form(body.decode("utf-8", "replace")).encode()
        if "json" in kind or body[:1] in {b"{", b"["}:
            try:
                value = json.loads(body)
            except ValueError:
                return self._raw(body)
            hidden = self._json(value, _Place(uri))
            return body if hidden == value else msgspec.json.encode(hidden)
        return self._raw(body)

    def _raw(self, body: bytes) -> bytes:
        """A body that is no JSON: XML, lines of events, text."""
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return body
        if text.lstrip()[:1] == "<":
            hide = lambda match: f"<{match[1]}>{self._learn(match[2])}</{match[1]}>"
            text = _IN_XML.sub(hide, text)
        return self._text(text).encode()

    def _json(self, value: Any, place: _Place) -> Any:
        if isinstance(value, dict):
            return {
                name: self._secret(inner)
                if isinstance(inner, str) and place.secret(str(name), value)
                else self._json(inner, place)
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [self._json(inner, place) for inner in value]
        return self._text(value) if isinstance(value, str) else value

    def _text(self, text: str) -> str:
        """A text without the secrets of signed addresses and connection strings."""
        return _IN_TEXT.sub(lambda match: f"{match[1]}={self._learn(match[2])}", text)

    def _plain(self, text: str) -> str:
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, HIDDEN).replace(quote(value, safe=""), HIDDEN)
        return text

    def _plain_bytes(self, body: bytes) -> bytes:
        for value in sorted(self._values, key=len, reverse=True):
            body = body.replace(value.encode(), HIDDEN.encode())
        return body


class _Place:
    """The service that a body goes to or comes from."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        path = parts.path
        self._listed = _LISTED.search(path) is not None
        # Key Vault and Secret Manager, wherever they are.
        self._vault = "/secrets/" in path
        self._parameters = (parts.hostname or "").startswith("ssm.")

    def secret(self, name: str, beside: Mapping[str, Any]) -> bool:
        """Whether a field's text is a secret."""
        bare = _bare(name)
        if bare in FIELDS or _VARIABLE.match(name):
            return True
        if self._listed and bare not in _ABOUT:
            return True
        if bare == "token":
            return any(_bare(other) == "secretaccesskey" for other in beside)
        if bare == "data":
            return self._vault
        if bare != "value":
            return False
        named = str(beside.get("name") or beside.get("Name") or "")
        kind = beside.get("Type") or beside.get("type")
        return (
            self._vault
            or self._parameters
            or kind == "SecureString"
            or _VARIABLE.match(named) is not None
        )


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
