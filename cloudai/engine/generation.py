"""A chat model and its answers, token by token.

Models whose attention goes through transformers' interface answer all callers in one forward a
token (``decoding``). For others there is a loop of our own rather than ``generate()``: each token
is seen before the next one is made, so that streaming, stop sequences, a deadline, a grammar and
closing the stream need no second thread, and several callers can take turns token by token.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers import DynamicCache

from cloudai.engine import adapters, bounded, calls, loading
from cloudai.engine import device as _device
from cloudai.engine.decoding.attention import Unfit
from cloudai.engine.decoding.build import build
from cloudai.engine.decoding.engine import Engine
from cloudai.engine.decoding.request import broken
from cloudai.engine.decoding.sampling import BROKEN, Counts, Kind, Sampling, choose
from cloudai.engine.grammar import Grammar, GrammarMaker
from cloudai.errors import CapacityError, ConfigError, InvalidRequest, ProviderError
from cloudai.protocols import Call

PREFILL: Final = 1024
"""Tokens of a prompt read in one forward pass; bounds the memory that a long prompt takes, and
lets a deadline be kept within it."""
TEMPLATE_SECONDS: Final = 10.0
"""That a chat template may take at most; the usual ones take a millisecond."""


class Sampler:
    """Chooses the tokens of one text."""

    def __init__(self, how: Sampling, prompt: Sequence[int]) -> None:
        self._kind = Kind.of([how])
        self._table = torch.tensor([how.numbers()])
        self._seed = torch.tensor([how.start()])
        self._how = how
        self._prompt = prompt
        self._place = len(prompt)
        self._counts: Counts | None = None

    def choose(self, logits: Any) -> int:
        """The next token for a vector of float32 logits, which this may change."""
        device, counts = logits.device, None
        if self._how.penalises:
            if self._counts is None:
                self._counts = Counts(1, logits.numel(), device)
                self._counts.begin(0, self._prompt, [])
            counts = self._counts.given, self._counts.made
        token = choose(
            logits[None],
            self._table.to(device),
            self._seed.to(device),
            torch.tensor([self._place], device=device),
            self._kind,
            counts,
        )
        self._place += 1
        if self._counts is not None:
            self._counts.add(torch.zeros_like(token), token)
        if int(token) == BROKEN:
            raise broken()
        return int(token)


class ChatModel:
    """A causal language model with its tokenizer. Safe to use from several threads.

    Parameters
    ----------
    compiled: the folder in which a GPU's compiled layers are kept.
    memory: of the device's memory that the model leaves, the share that keys and values may take;
        None: 0.8 of a GPU's, 0.25 of the machine's for a CPU.

    Attributes
    ----------
    context: the most tokens that prompt and answer may have; None where the model says none.
    engine: answers all callers at once; None: they take turns, one forward pass each.
    alone: why they do.
    template: the chat template's text.

    With a ``base``, ``path`` is an adapter's.
    """

    def __init__(
        self,
        path: Path,
        device: str,
        dtype: str,
        base: ChatModel | None = None,
        *,
        compiled: Path | None = None,
        memory: float | None = None,
    ) -> None:
        self.path = path
        self.device = device
        bare = base is not None and not (path / "tokenizer_config.json").is_file()
        self.tokenizer = loading.tokenizer(base.path if base and bare else path)
        self.template = _template(self.tokenizer, path)
        self.model: Any = (
            loading.model(path, "chat", device, _device.dtype(dtype))
            if base is None
            else adapters.beside(base.model, base.attention, path)
        )
        self.attention = str(self.model.config.get_text_config()._attn_implementation)
        self.context = _context(self.model.config, self.tokenizer)
        self.ends = _ends(self.model, self.tokenizer)
        self.style = calls.style(self.template, self.tokenizer)
        self._turn = threading.Lock()
        self._text = threading.Lock()
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()
        self._backend = backend
        self._grammars = GrammarMaker(
            self.tokenizer, self.model.config.get_text_config().vocab_size, self.ends
        )
        self.engine: Engine | None = None
        self.alone = ""
        try:
            self.engine = build(
                self.model, path.name, device, self.context, share=memory, folder=compiled
            )
        except Unfit as reason:
            self.alone = str(reason)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        seconds: float = TEMPLATE_SECONDS,
        switches: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The prompt's tokens; ``switches`` are further variables of the template. Raises
        InvalidRequest where the template refuses the messages, or has no end within
        ``seconds``."""
        import jinja2

        try:
            with bounded.within(min(seconds, TEMPLATE_SECONDS)):
                text = self.tokenizer.apply_chat_template(
                    list(messages),
                    tools=list(tools) or None,
                    add_generation_prompt=True,
                    tokenize=False,
                    **(switches or {}),
                )
        except bounded.Late:
            raise InvalidRequest(
                f"the chat template of {self.path.name} has no end "
                f"within {min(seconds, TEMPLATE_SECONDS):.3g} s",
                field="model",
                provider="local",
                hint="Look at its chat_template, or use another model",
            ) from None
        except (jinja2.TemplateError, TypeError) as error:
            raise InvalidRequest(
                f"the chat template of {self.path.name} refuses the messages: {error}",
                field="messages",
                provider="local",
            ) from error
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text that has its special tokens already, as a template writes them."""
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        with self._text:  # tokenizers written in Python are not made for threads
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """The text of tokens, without special ones, exactly as they spell it."""
        if self._backend is not None:
            return self._backend.decode(ids, skip_special_tokens=True)
        with self._text:
            return self.tokenizer.decode(ids, skip_special_tokens=True)

    def text(self, ids: list[int]) -> str:
        """The text of tokens, special ones too."""
        with self._text:
            return self.tokenizer.decode(ids, skip_special_tokens=False)

    def grammar(self, schema: dict[str, Any] | str, field: str) -> Grammar:
        """What holds an answer to a JSON Schema, or to a Lark grammar. Raises InvalidRequest for a
        schema with parts that it cannot hold to, MissingExtra where llguidance is not installed."""
        return self._grammars.make(schema, field)

    def generate(
        self,
        prompt: Sequence[int],
        *,
        limit: int,
        sampling: Sampling,
        call: Call,
        grammar: Grammar | None = None,
    ) -> Iterator[list[int]]:
        """The answer's tokens, as they are made: mostly one at a time; more where the grammar
        leaves no choice. Ends after an end token (which is given too), after ``limit`` tokens,
        or where the grammar is satisfied.

        Raises CallTimeout when the call's deadline passes, CapacityError where too many wait or
        the memory for keys and values is too small. Dropping the iterator stops the work.
        """
        if self.engine is not None:
            yield from _batched(self.engine, prompt, limit, sampling, self.ends, call, grammar)
            return
        sampler = Sampler(sampling, prompt)
        cache = DynamicCache(config=self.model.config)
        fresh: Sequence[int] = prompt
        made = 0
        while made < limit:
            logits = self._forward(fresh, cache, call)
            if grammar is not None:
                grammar.mask(logits)
            token = sampler.choose(logits)
            forced = grammar.accept(token) if grammar is not None else []
            fresh = [token, *forced][: limit - made]
            made += len(fresh)
            yield list(fresh)
            if token in self.ends or (grammar is not None and grammar.done):
                return

    def _forward(self, ids: Sequence[int], cache: Any, call: Call) -> Any:
        """The logits after ``ids``, float32, a copy."""
        out: Any = None
        try:
            for piece in _pieces(ids):
                call.remaining()
                with self._turn, torch.inference_mode():
                    out = self.model(
                        input_ids=torch.tensor([piece], device=self.device),
                        past_key_values=cache,
                        use_cache=True,
                        logits_to_keep=1,
                    )
            return out.logits[0, -1].clone().float()
        except torch.OutOfMemoryError as error:
            raise CapacityError(
                f"the device {self.device} ran out of memory",
                provider="local",
                hint="Send a shorter prompt, or choose another `device`",
            ) from error
        except RuntimeError as error:
            raise ProviderError(
                f"the model {self.path.name} failed: {error}", provider="local"
            ) from error


def _batched(
    engine: Engine,
    prompt: Sequence[int],
    limit: int,
    how: Sampling,
    ends: frozenset[int],
    call: Call,
    grammar: Grammar | None,
) -> Iterator[list[int]]:
    pieces: queue.SimpleQueue[list[int] | Exception | None] = queue.SimpleQueue()
    made: list[int] = []
    request = engine.submit(
        prompt, limit=limit, how=how, ends=ends, sink=pieces.put, grammar=grammar
    )
    try:
        while True:
            try:
                piece = pieces.get(timeout=call.remaining())
            except queue.Empty:
                continue  # ``remaining`` tells whether the time is over
            # A reader that falls behind gets all that has come meanwhile, as one piece.
            while isinstance(piece, list):
                made += piece
                piece = [] if pieces.empty() else pieces.get()
                if not piece and isinstance(piece, list):
                    break
            if made:
                yield made
                made = []
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise piece
    finally:
        request.leave()


def _pieces(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[at : at + PREFILL] for at in range(0, len(ids), PREFILL))


def _template(tokenizer: Any, path: Path) -> str:
    found: Any = tokenizer.chat_template
    if isinstance(found, dict):
        found = next((found[name] for name in ("default", *found) if name in found), None)
    if not found:
        raise ConfigError(
            f"the model at {path} has no chat template, so it is no chat model",
            provider="local",
            hint="Take the model's instruction-tuned sibling, or put the template's text into "
            "chat_template.jinja beside its config.json",
        )
    return str(found)


def _context(config: Any, tokenizer: Any) -> int | None:
    text = config.get_text_config()
    named = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    sizes = [getattr(text, name, None) for name in named]
    # Tokenizers without a limit of their own say 10**30.
    sizes.append(tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else None)
    known = [int(size) for size in sizes if isinstance(size, int) and size > 0]
    return min(known) if known else None


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: what the model, its generation settings and its tokenizer
    call so; they differ in many published models."""
    settings: Any = getattr(model, "generation_config", None)
    given = (
        getattr(settings, "eos_token_id", None),
        getattr(model.config.get_text_config(), "eos_token_id", None),
        tokenizer.eos_token_id,
    )
    lists: Iterable[Iterable[Any]] = (one if isinstance(one, list) else [one] for one in given)
    return frozenset(
        int(token) for token in itertools.chain.from_iterable(lists) if token is not None
    )
