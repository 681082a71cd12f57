"""A chat model and its token loop.

The loop is our own rather than ``generate()``: each token is seen before the next one is made,
so that streaming, stop sequences, a deadline, a grammar and closing the stream need no second
thread, and several callers can take turns token by token. It costs nothing: the forward pass
is the same.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from transformers import DynamicCache

from cloudai.engine import bounded, loading
from cloudai.engine import device as _device
from cloudai.engine.grammar import Grammar, GrammarMaker
from cloudai.errors import CapacityError, ConfigError, InvalidRequest, ProviderError
from cloudai.protocols import Call

PREFILL: Final = 1024
"""Tokens of a prompt read in one forward pass; bounds the memory that a long prompt takes, and
lets a deadline be kept within it."""
TEMPLATE_SECONDS: Final = 10.0
"""That a chat template may take at most; the usual ones take a millisecond."""
_GREEDY: Final = 1e-5
"""Below this temperature the draw is the likeliest token, and float32 knows no smaller step
(vLLM has the like, as remembered)."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen.

    Parameters
    ----------
    temperature: 0 takes the likeliest token (greedy).
    top_p: the smallest set of tokens with this probability. top_k: at most so many; 0: all.
    repetition_penalty: above 1 makes tokens less likely that stand in the text already
        (Keskar et al. 2019, as in transformers).
    seed: of the draws; None takes a fresh one.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None


class Sampler:
    """Chooses tokens, with a random generator of its own: torch's global one is not touched.

    One number is drawn a token, on the CPU, so that a seed means the same on every device.
    """

    def __init__(self, how: Sampling, prompt: Sequence[int]) -> None:
        self._how = how
        self._random = torch.Generator()
        # Any Python integer is a seed; torch takes 64 bits.
        seed = secrets.randbits(64) if how.seed is None else how.seed % 2**64
        self._random.manual_seed(seed)
        self._seen = set(prompt)

    def choose(self, logits: Any) -> int:
        """The next token for a vector of float32 logits, which this may change."""
        how = self._how
        if how.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(self._seen), device=logits.device)
            values = logits[seen]
            penalty = how.repetition_penalty
            logits[seen] = torch.where(values < 0, values * penalty, values / penalty)
        token = self._draw(logits) if how.temperature > _GREEDY else int(logits.argmax())
        self._seen.add(token)
        return token

    def _draw(self, logits: Any) -> int:
        how = self._how
        # The maximum goes first: a tiny temperature would otherwise overflow.
        scaled = (logits - logits.max()) / how.temperature
        order: Any = None
        if 0 < how.top_k < scaled.numel():
            scaled, order = scaled.topk(how.top_k)
        chances = scaled.softmax(-1)
        if how.top_p < 1.0:
            if order is None:
                chances, order = chances.sort(descending=True)
            before = chances.cumsum(-1) - chances
            chances = chances.masked_fill(before >= how.top_p, 0.0)
        total = chances.cumsum(-1, dtype=torch.float64)
        at = torch.rand(1, generator=self._random, dtype=torch.float64).to(total.device)
        index = int(torch.searchsorted(total, at * total[-1], right=True))
        # Rounding can put the draw past the end, or on tokens of no chance there.
        possible = (chances > 0).nonzero()
        if not len(possible):
            raise ProviderError(
                "the model's scores are no numbers",
                provider="local",
                hint="Use dtype='float32', or look at the model's weights",
            )
        index = min(index, int(possible[-1]))
        return int(order[index]) if order is not None else index


class ChatModel:
    """A causal language model with its tokenizer. Safe to use from several threads: they take
    turns, one forward pass each.

    Attributes
    ----------
    context: the most tokens that prompt and answer may have; None where the model says none.
    template: the chat template's text.
    """

    def __init__(self, path: Path, device: str, dtype: str) -> None:
        self.path = path
        self.device = device
        self.tokenizer = loading.tokenizer(path)
        self.template = _template(self.tokenizer, path)
        self.model = loading.model(path, "chat", device, _device.dtype(dtype))
        self.context = _context(self.model.config, self.tokenizer)
        self.ends = _ends(self.model, self.tokenizer)
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

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        seconds: float = TEMPLATE_SECONDS,
    ) -> list[int]:
        """The prompt's tokens. Raises InvalidRequest where the template refuses the messages, or
        has no end within ``seconds``."""
        import jinja2

        kwargs: dict[str, Any] = {"enable_thinking": False} if self.thinks else {}
        try:
            with bounded.within(min(seconds, TEMPLATE_SECONDS)):
                text = self.tokenizer.apply_chat_template(
                    list(messages),
                    tools=list(tools) or None,
                    add_generation_prompt=True,
                    tokenize=False,
                    **kwargs,
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
        # The template writes the special tokens itself.
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        with self._text:  # tokenizers written in Python are not made for threads
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def thinks(self) -> bool:
        """Whether the template has a switch for reasoning."""
        return "enable_thinking" in self.template

    @property
    def knows_tools(self) -> bool:
        """Whether the template shows tools to the model."""
        return "tools" in self.template

    def decode(self, ids: list[int]) -> str:
        """The text of tokens, without special ones, exactly as they spell it."""
        if self._backend is not None:
            return self._backend.decode(ids, skip_special_tokens=True)
        with self._text:
            return self.tokenizer.decode(ids, skip_special_tokens=True)

    def grammar(self, schema: dict[str, Any], field: str) -> Grammar:
        """What holds an answer to a JSON Schema. Raises InvalidRequest for a schema with parts
        that it cannot hold to, MissingExtra where llguidance is not installed."""
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

        Raises CallTimeout when the call's deadline passes. Nothing runs between two steps, so
        dropping the iterator stops the work.
        """
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
