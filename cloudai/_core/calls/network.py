"""How requests leave this machine: proxies, authorities, client certificates. Decided here, for
all providers, sync and async alike.

The environment's variables mean what they mean to curl, requests and botocore: HTTPS_PROXY,
HTTP_PROXY and ALL_PROXY name a proxy, for each host by itself; NO_PROXY lists hosts, domains
(``.example.com`` and ``example.com`` are the same), addresses, networks (``10.0.0.0/8``), each
with a port if it has one, and ``*``. REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE and
SSL_CERT_DIR, in this order, name the authorities to trust instead of certifi's.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
from functools import cache
from typing import Final, NoReturn
from urllib.parse import unquote, urlsplit

from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.secrets import Hidden
from cloudai.errors import ConfigError

BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PORTS: Final = {"http": 80, "https": 443}


class Proxy:
    """A proxy's address, without its user and password, which ``headers`` carry."""

    __slots__ = ("headers", "url")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in _PORTS or not parts.hostname or port == -1:
            raise ConfigError(
                "the proxy that the environment names is no http or https address",
                hint="Write HTTPS_PROXY as http://HOST:PORT; SOCKS is not supported",
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.url = f"{parts.scheme}://{host}:{port or _PORTS[parts.scheme]}"
        self.headers: dict[str, str] = {}
        if parts.username is not None:
            said = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            basic = base64.b64encode(said.encode()).decode()
            self.headers["Proxy-Authorization"] = Hidden(f"Basic {basic}")

    def __repr__(self) -> str:
        return f"Proxy({self.url!r})"


def proxy(url: str) -> Proxy | None:
    """The proxy on the way to a URL; None where it is asked directly. Raises ConfigError for one
    that cannot be used."""
    from urllib.request import getproxies, getproxies_environment, proxy_bypass

    found = getproxies()
    if not found:
        return None
    parts = urlsplit(url)
    host = parts.hostname or ""
    via = found.get(parts.scheme) or found.get("all")
    if not via:
        return None
    if getproxies_environment():
        direct = bypassed(host, parts.port or _PORTS.get(parts.scheme, 0), found.get("no", ""))
    else:  # the system's own settings, which have a form of their own
        direct = bool(proxy_bypass(host))
    return None if direct else Proxy(via)


def bypassed(host: str, port: int, listed: str) -> bool:
    """Whether NO_PROXY's ``listed`` names a host."""
    host = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None and address.is_link_local:
        return True  # a machine's own metadata service, which no proxy reaches
    for entry in listed.lower().replace(",", " ").split():
        name, its_port = _entry(entry)
        if its_port not in {None, port}:
            continue
        if name == "*":
            return True
        if address is not None:
            try:
                if address in ipaddress.ip_network(name, strict=False):
                    return True
            except ValueError:
                continue
        name = name.removeprefix("*").strip(".")
        if name and (host == name or host.endswith(f".{name}")):
            return True
    return False


def _entry(entry: str) -> tuple[str, int | None]:
    """The name and the port of one entry."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        port = rest.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, port = entry.partition(":")
    else:
        return entry, None  # an IPv6 address or network has more
    return name, int(port) if port.isdigit() else None


class Network:
    """How one profile's requests leave.

    Parameters
    ----------
    bundle: authorities that go before the environment's, a file or a folder. certificate: a PEM
        file with the certificate that this client shows, and its key unless ``key`` names that.
    """

    def __init__(
        self,
        bundle: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
    ) -> None:
        self._bundle = bundle
        self.certificate = certificate
        self.key = key

    @property
    def bundle(self) -> str | None:
        """The authorities' file or folder, where one is named."""
        return self._bundle or next((os.environ[n] for n in BUNDLES if os.environ.get(n)), None)

    @property
    def tls(self) -> ssl.SSLContext:
        """The TLS context. Raises ConfigError for files that cannot be read."""
        paths = (self.bundle, self.certificate, self.key)
        return _context(*paths, tuple(_changed(path) for path in paths))


def network_of(profile: Profile, bundle: str | None = None) -> Network:
    """How a profile's requests leave, by its keys ``client_certificate`` and ``client_key``."""
    certificate, key = (
        os.path.expanduser(found) if (found := profile.get(name)) else None
        for name in ("client_certificate", "client_key")
    )
    return Network(bundle, certificate, key)


def _changed(path: str | None) -> int:
    try:
        return os.stat(path).st_mtime_ns if path else 0
    except OSError:
        return 0


@cache
def _context(
    bundle: str | None, certificate: str | None, key: str | None, _: tuple[int, ...]
) -> ssl.SSLContext:
    # Making one takes tens of milliseconds, and it serves any number of sessions.
    place = bundle
    try:
        if place is None:
            try:
                import certifi

                place = certifi.where()
            except ModuleNotFoundError:
                pass
        if place is not None and os.path.isdir(place):
            made = ssl.create_default_context(capath=place)
        else:
            made = ssl.create_default_context(cafile=place)
    except OSError as error:
        raise ConfigError(
            f"the authorities' file {place} cannot be read ({error.strerror or error})",
            hint=f"Look at {', '.join(BUNDLES)}",
        ) from None
    if certificate is not None:
        try:
            made.load_cert_chain(certificate, key, password=_locked)
        except OSError as error:
            raise ConfigError(
                f"client_certificate={certificate!r} cannot be used ({error.strerror or error})",
                hint="It is a PEM file with the certificate and its key, or client_key has that",
            ) from None
    return made


def _locked() -> NoReturn:
    # Without this OpenSSL asks for it at the terminal.
    raise ConfigError(
        "the key of client_certificate is locked by a password",
        hint="Write it without one (openssl pkey -in KEY -out UNLOCKED), readable by you alone",
    )
