"""The body of a streamed answer, as it comes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from urllib3.exceptions import HTTPError

from cloudai.providers.aws import transport

_BLOCK: Final = 65_536


def pieces(response: Any) -> Generator[bytes]:
    """The body piece by piece. Raises ConnectionFailed where it breaks off; a connection that is
    left before its end is closed, since what is still to come on it is of no use."""
    ended = False
    try:
        if response.chunked:
            yield from response.read_chunked()
        else:
            while piece := response.read1(_BLOCK):
                yield piece
        ended = True
    except HTTPError as error:
        raise transport.failure(error, "the service") from error
    finally:
        if not ended:
            response.close()
        response.release_conn()
