"""Chat in OpenAI's format, both directions: OpenAI and Azure, model servers (vLLM, SGLang, TGI,
our own), and whatever else speaks it.

A client writes requests (``request``) and reads answers and the chunks of streams (``answer``).
A server reads requests and writes answers and the
events of streams (``completion``, which only servers import). Messages in OpenAI's words, in a
request or in a program's own lists, are read by ``messages``.
"""

from cloudai.formats.openai.answer import Chunks, Service, TokenUsage, reply
from cloudai.formats.openai.messages import message
from cloudai.formats.openai.request import Dialect, body

__all__ = ["Chunks", "Dialect", "Service", "TokenUsage", "body", "message", "reply"]
