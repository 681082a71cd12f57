"""Chat on this machine: answers, limits, turns; tiny models, and the embedded one."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec
import pytest
from _models_fixtures import (
    ask,
    llama,
    profile,
    random_llama,
    real_home,
    scripted,
)

from cloudai.engine.detokenizer import StopFilter, TextDecoder
from cloudai.errors import (
    CallTimeout,
    ContextOverflow,
)
from cloudai.protocols import Call
from cloudai.providers.local.chat import LocalChat
from cloudai.types import (
    ChatReply,
    ChatRequest,
    Message,
    ResponseSchema,
)

SAYS = "café 日語!"


@pytest.fixture
def chat(tmp_path: Path):
    mine = profile(tmp_path)
    yield LocalChat(mine)
    mine.close()


def streamed(chat: LocalChat, request: ChatRequest) -> tuple[str, list[str], object]:
    chunks = list(chat.stream(request, Call()))
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    pieces = [chunk.text for chunk in chunks]
    return "".join(pieces), pieces, chunks[-1]


# ------------------------------------------------------------------ text


def byte_decode(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


@pytest.mark.parametrize("text", ["plain", "café", "日本語", "👩‍👩‍👧 🇫🇷", "a\ufffdb", ""])
def test_characters_come_out_whole(text: str):
    decoder = TextDecoder(byte_decode)
    pieces = [decoder.push([byte]) for byte in text.encode()]
    assert "".join(pieces) + decoder.finish() == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)


def test_bytes_that_never_become_a_character_do_not_stop_the_text():
    decoder = TextDecoder(byte_decode)
    text = "".join(decoder.push([byte]) for byte in b"\xe6\x97 ok")
    assert text.endswith(" ok")
    assert decoder.push([0xE6]) == ""
    assert decoder.finish() == "\ufffd"
    endless = "".join(decoder.push([0x80]) for _ in range(100))
    assert len(endless) > 80


@pytest.mark.parametrize(
    ("stops", "pieces", "text", "stopped"),
    [
        (("END",), ["ab", "cE", "N", "Dxy"], "abc", True),
        (("END",), ["abE", "N", "x"], "abENx", False),
        (("END",), ["ab", "EN"], "abEN", False),
        (("aab",), ["a", "a", "a", "b"], "a", True),
        (("yy", "b"), ["abyy"], "a", True),
        ((), ["ab", "c"], "abc", False),
    ],
)
def test_stop_sequences_never_come_out(stops, pieces, text: str, stopped: bool):
    held = StopFilter(stops)
    came = "".join(held.push(piece) for piece in pieces)
    assert came + held.finish() == text
    assert held.stopped is stopped


# ------------------------------------------------------------------ answers


def test_an_answer(chat: LocalChat):
    reply = chat.create(ask(model=scripted(SAYS)), Call())
    assert reply.text == SAYS
    assert reply.finish_reason == "stop"
    assert reply.usage.output_tokens == len(SAYS.encode()) + 1
    assert (reply.provider, reply.cost, reply.model) == ("local", 0.0, str(scripted(SAYS)))


def test_a_stream_is_the_answer_in_whole_characters(chat: LocalChat):
    text, pieces, last = streamed(chat, ask(model=scripted(SAYS)))
    assert text == SAYS
    assert all(piece and "\ufffd" not in piece for piece in pieces[:-1])
    reply = chat.create(ask(model=scripted(SAYS)), Call())
    assert (last.finish_reason, last.usage) == ("stop", reply.usage)


def test_the_prompt_is_counted_exactly(chat: LocalChat):
    messages = (Message("system", "S"), Message("user", "Hé"))
    reply = chat.create(ask(messages=messages, model=scripted(SAYS)), Call())
    # Each special token is one, each byte one.
    turns = [b"system\nS", "user\nHé".encode()]
    assert reply.usage.input_tokens == sum(2 + len(turn) + 1 for turn in turns) + 1 + 10


def test_our_own_system_message_only_where_none_is_given(chat: LocalChat):
    def count(*messages: Message) -> int:
        return chat.create(ask(messages=messages, model=scripted(SAYS)), Call()).usage.input_tokens

    user = Message("user", "Hi")
    ours = Message("system", "You are a concise, factual assistant.")
    assert count(user) == count(ours, user)
    assert count(Message("system", ""), user) == count(user) - len("<system\n>\n" + ours.text)


def test_max_tokens(chat: LocalChat):
    request = ask(model=scripted(SAYS), max_tokens=4)
    reply = chat.create(request, Call())
    assert (reply.text, reply.finish_reason) == ("caf\ufffd", "length")
    assert reply.usage.output_tokens == 4
    assert streamed(chat, request)[0] == reply.text
    whole = chat.create(ask(model=scripted(SAYS), max_tokens=len(SAYS.encode()) + 1), Call())
    assert (whole.text, whole.finish_reason) == (SAYS, "stop")


@pytest.mark.parametrize("stop", [" 日", "é 日語", "fé", "!", "c"])
def test_stops_across_tokens(chat: LocalChat, stop: str):
    request = ask(model=scripted(SAYS), stop=("never", stop))
    reply = chat.create(request, Call())
    assert (reply.text, reply.finish_reason) == (SAYS[: SAYS.index(stop)], "stop")
    assert streamed(chat, request)[0] == reply.text


def test_the_beginning_of_a_stop_comes_out_at_the_end(chat: LocalChat):
    reply = chat.create(ask(model=scripted(SAYS), stop=("語!!",)), Call())
    assert reply.text == SAYS


def test_a_seed_gives_the_same_answer(chat: LocalChat):
    import torch

    def text(seed: int | None, **fields: object) -> str:
        request = ask(model=random_llama(), seed=seed, max_tokens=24, temperature=1.0, **fields)
        return chat.create(request, Call()).text

    state = torch.get_rng_state()
    first = text(11)
    assert text(11) == first
    assert text(-(2**70)) == text(-(2**70))
    assert len({text(seed) for seed in range(5)}) > 1
    assert text(None) != text(None)
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        streamed(chat, ask(model=random_llama(), seed=11, max_tokens=24, temperature=1.0))[0]
        == first
    )


def test_greedy_is_the_default(chat: LocalChat):
    def text(**fields: object) -> str:
        return chat.create(ask(model=random_llama(), max_tokens=16, **fields), Call()).text

    greedy = text()
    assert text() == text(temperature=0.0) == greedy
    assert text(temperature=1.0, native={"top_k": 1}) == greedy
    assert text(temperature=1.5, top_p=1e-6) == greedy
    assert text(temperature=1e-9) == greedy
    assert text(top_p=0.99, seed=1, native={"top_k": 100}) != greedy


def test_sampling_follows_the_probabilities():
    """The draws against the softmax itself, and top_p's set against its definition."""
    import torch

    from cloudai.engine.generation import Sampler, Sampling

    logits = torch.log(torch.tensor([0.5, 0.1, 0.25, 0.15]))
    sampler = Sampler(Sampling(temperature=1.0, seed=1), [])
    draws = [sampler.choose(logits.clone()) for _ in range(4000)]
    shares = [draws.count(token) / len(draws) for token in range(4)]
    assert shares == pytest.approx([0.5, 0.1, 0.25, 0.15], abs=0.03)
    sampler = Sampler(Sampling(temperature=1.0, top_p=0.6, seed=1), [])
    assert {sampler.choose(logits.clone()) for _ in range(500)} == {0, 2}
    sampler = Sampler(Sampling(temperature=1.0, top_k=3, seed=1), [])
    assert {sampler.choose(logits.clone()) for _ in range(500)} == {0, 2, 3}
    penalty = Sampler(Sampling(repetition_penalty=5.0), [0])
    assert penalty.choose(logits.clone()) == 2


@pytest.mark.parametrize("batched", [True, False])
def test_an_answer_is_what_transformers_generate_makes(chat: LocalChat, batched: bool):
    """Greedy, on random weights, with a prompt read in several pieces."""
    import torch

    from cloudai.engine import generation, loading

    model = generation.ChatModel(random_llama(), "cpu", "float32")
    assert model.engine is not None
    prompt = model.render([{"role": "user", "content": "abc" * 60}])
    old, generation.PREFILL = generation.PREFILL, 50
    try:
        if not batched:
            model.engine.runner.bound.release()
            model.engine = None
        steps = model.generate(prompt, limit=40, sampling=generation.Sampling(), call=Call())
        mine = [token for step in steps for token in step]
    finally:
        generation.PREFILL = old
    ids = torch.tensor([prompt])
    plain = loading.model(random_llama(), "chat", "cpu", torch.float32)
    with torch.inference_mode():
        theirs = plain.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40
        )
    assert mine == theirs[0, len(prompt) :].tolist()


# ------------------------------------------------------------------ limits


def test_context_overflow_names_both_numbers(chat: LocalChat):
    small = scripted(SAYS, 128)
    fits = chat.create(ask("x", model=small), Call()).usage.input_tokens
    long = "x" * 200
    with pytest.raises(ContextOverflow) as raised:
        chat.stream(ask(long, model=small), Call())  # before the first piece is asked for
    assert (raised.value.tokens, raised.value.limit) == (fits + 199 + 1, 128)
    assert str(fits + 199) in str(raised.value)
    assert "128" in str(raised.value)
    with pytest.raises(ContextOverflow, match="max_tokens=100"):
        chat.create(ask("x", model=small, max_tokens=100), Call())
    # Without max_tokens the answer has what is left.
    reply = chat.create(ask("x" * (128 - fits - 2), model=small), Call())
    assert (reply.finish_reason, reply.usage.total_tokens) == ("length", 128)


def test_a_deadline_ends_the_work(chat: LocalChat):
    chat.create(ask(model=random_llama(4096), max_tokens=1), Call())
    began = time.monotonic()
    with pytest.raises(CallTimeout):
        chat.create(
            ask(model=random_llama(4096), max_tokens=3000), Call(deadline=time.monotonic() + 0.3)
        )
    assert time.monotonic() - began < 5


def test_closing_a_stream_ends_the_work(chat: LocalChat):
    stream = chat.stream(ask(model=random_llama(4096), max_tokens=3000), Call())
    next(stream)
    stream.close()
    assert list(stream) == []
    # Nothing of it holds the model: the next request is served at once.
    assert chat.create(ask(model=random_llama(4096), max_tokens=1), Call()).finish_reason


def test_two_streams_in_one_thread(chat: LocalChat):
    """A reader that stops reading holds up nobody."""
    one = chat.stream(ask(model=scripted(SAYS)), Call())
    two = chat.stream(ask(model=scripted(SAYS)), Call())
    texts = ["", ""]
    for first, second in zip(one, two, strict=True):
        texts = [texts[0] + first.text, texts[1] + second.text]
    assert texts == [SAYS, SAYS]


def test_threads_share_one_model_and_do_not_mix(tmp_path: Path):
    from cloudai.engine.pool import POOL

    model = llama(tmp_path / "own")
    profiles = [profile(tmp_path), profile(tmp_path)]
    chats = [LocalChat(one) for one in profiles]
    replies: dict[int, ChatReply] = {}
    ready = threading.Barrier(6)

    def work(at: int) -> None:
        ready.wait()
        request = ask("x" * at, model=model, max_tokens=30, temperature=1.0, seed=at)
        replies[at] = chats[at % 2].create(request, Call())

    threads = [threading.Thread(target=work, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([key for key in POOL.loaded() if str(model) in str(key)]) == 1
    for at, reply in replies.items():
        request = ask("x" * at, model=model, max_tokens=30, temperature=1.0, seed=at)
        assert chats[0].create(request, Call()).text == reply.text
    for one in profiles:
        one.close()
    assert not [key for key in POOL.loaded() if str(model) in str(key)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_answers(tmp_path: Path):
    mine = profile(tmp_path)
    chat = LocalChat(mine)
    chat.create(ask(model=scripted(SAYS)), Call())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            mine.after_fork()
            code = 0 if chat.create(ask(model=scripted(SAYS)), Call()).text == SAYS else 2
        finally:
            os._exit(code)
    limit = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > limit:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


# ------------------------------------------------------------------ the embedded model


@pytest.mark.slow
def test_the_embedded_model_answers():
    chat = LocalChat(profile(real_home()))
    reply = chat.create(ask("What is the capital of France?", max_tokens=24), Call())
    assert "paris" in reply.text.lower()
    assert (reply.model, reply.finish_reason) == ("smollm2-135m", "stop")
    text, _, last = streamed(chat, ask("What is the capital of France?", max_tokens=24))
    assert (text, last.usage) == (reply.text, reply.usage)
    named = chat.create(
        ask("What is the capital of Japan?", model="smollm2-135m", max_tokens=24), Call()
    )
    assert "tokyo" in named.text.lower()
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    person = chat.create(ask("Ada, 36", response_schema=ResponseSchema(schema=schema)), Call())
    assert msgspec.json.decode(person.text) == {"name": "Ada", "age": 36}
    with pytest.raises(ContextOverflow) as raised:
        chat.create(ask("word " * 9000), Call())
    assert raised.value.limit == 8192
