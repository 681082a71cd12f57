"""Local chat with bad requests and damaged models."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from _models_fixtures import (
    END,
    ask,
    llama,
    profile,
    random_llama,
    scripted,
)
from support.models import byte_symbols

from cloudai.errors import (
    ConfigError,
    InvalidRequest,
    UnsupportedByProvider,
)
from cloudai.protocols import Call
from cloudai.providers.local.chat import LocalChat
from cloudai.types import (
    Image,
    Message,
    ResponseSchema,
    Text,
    Tool,
)

SAYS = "café 日語!"


@pytest.fixture
def chat(tmp_path: Path):
    mine = profile(tmp_path)
    yield LocalChat(mine)
    mine.close()


WEATHER = Tool(name="weather")


# ------------------------------------------------------------------ bad input


def test_images_are_refused_before_a_model_is_loaded(chat: LocalChat, tmp_path: Path):
    from cloudai.engine.pool import POOL

    before = POOL.loaded()
    messages = (Message("user", (Text("What is this?"), Image(data=b"x"))),)
    with pytest.raises(UnsupportedByProvider, match=r"messages\[0\].*image"):
        chat.create(ask(messages=messages, model=llama(tmp_path / "m")), Call())
    assert POOL.loaded() == before


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"stop": ("",)}, "stop="),
        ({"native": {"top_kk": 1}}, "'top_k'"),
        ({"native": {"dtype": "int4"}}, "native.dtype='int4'"),
        ({"reasoning": "high"}, "reasoning='high'"),
        ({"tool_choice": "weather"}, "tool_choice='weather'"),
        ({"tools": (WEATHER,), "tool_choice": "wether"}, "There are: weather"),
    ],
)
def test_bad_fields_are_named(chat: LocalChat, fields, named: str):
    with pytest.raises(InvalidRequest) as raised:
        chat.create(ask(model=scripted(SAYS), **fields), Call())
    assert named in str(raised.value)


def copied(source: Path, goal: Path) -> Path:
    return Path(shutil.copytree(source, goal))


def test_damaged_models_are_named(chat: LocalChat, tmp_path: Path):
    cut = copied(random_llama(), tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match=f"the model at {cut} cannot be loaded"):
        chat.create(ask(model=cut), Call())

    gone = copied(random_llama(), tmp_path / "gone")
    (gone / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        chat.create(ask(model=gone), Call())

    other = copied(random_llama(), tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match=r"lacks \d+ weights"):
        chat.create(ask(model=other), Call())

    broken = copied(random_llama(), tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=f"the tokenizer at {broken} cannot be loaded"):
        chat.create(ask(model=broken), Call())


def test_a_base_model_is_no_chat_model(chat: LocalChat, tmp_path: Path):
    with pytest.raises(ConfigError, match="has no chat template"):
        chat.create(ask(model=llama(tmp_path / "base", template="")), Call())


def test_code_that_comes_with_a_model_is_not_run(chat: LocalChat, tmp_path: Path):
    evil = copied(random_llama(), tmp_path / "evil")
    proof = tmp_path / "ran"
    (evil / "modeling_x.py").write_text(f"open({str(proof)!r}, 'w')\nclass M: pass\nclass C: pass")
    config = json.loads((evil / "config.json").read_text())
    config |= {"model_type": "x", "auto_map": {"AutoConfig": "modeling_x.C"}}
    (evil / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        chat.create(ask(model=evil), Call())
    assert not proof.exists()


def test_pickled_weights_are_read_without_running_them(chat: LocalChat, tmp_path: Path):
    import pickle

    import torch
    from safetensors.torch import load_file

    old = copied(random_llama(), tmp_path / "old")
    state = load_file(str(old / "model.safetensors"))
    (old / "model.safetensors").unlink()
    torch.save(state, old / "pytorch_model.bin")
    want = chat.create(ask(model=random_llama(), max_tokens=8), Call()).text
    assert chat.create(ask(model=old, max_tokens=8), Call()).text == want

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    (old / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    again = copied(old, tmp_path / "again")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        chat.create(ask(model=again), Call())
    assert not (tmp_path / "ran").exists()


def test_a_template_without_system_messages(tmp_path: Path, chat: LocalChat):
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ '\\n' }}"
    )
    model = llama(tmp_path / "m", says=SAYS, template=template)
    assert chat.create(ask("Hi", model=model), Call()).usage.input_tokens == 3
    with pytest.raises(InvalidRequest, match="no system here"):
        chat.create(
            ask(messages=(Message("system", "S"), Message("user", "x")), model=model), Call()
        )


def test_settings_of_transformers_are_left_as_they_were(chat: LocalChat, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    model = scripted("ab")
    capfd.readouterr()
    chat.create(ask(model=model), Call())
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_byte_symbols_are_the_tokenizers_own():
    from tokenizers import pre_tokenizers

    assert sorted(byte_symbols()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert END == 257


# ------------------------------------------------------------------ K22


def test_k22_a_temperature_next_to_nothing_is_the_likeliest_token(chat: LocalChat):
    greedy = chat.create(ask(model=random_llama(), temperature=0, max_tokens=8), Call())
    for temperature in (1e-300, 5e-324, 1e-40, 1e-6):
        asked = ask(model=random_llama(), temperature=temperature, max_tokens=8)
        assert chat.create(asked, Call()).text == greedy.text


@pytest.mark.parametrize("required", [True, False])
def test_k22_a_schema_that_refers_to_itself_is_refused_in_a_sentence(
    chat: LocalChat, required: bool
):
    names = [f"p{number}" for number in range(500)]
    schema = {"type": "object", "properties": {name: {"$ref": "#"} for name in names}}
    if required:
        schema["required"] = names
    with pytest.raises(InvalidRequest) as caught:
        chat.create(
            ask(model=random_llama(), response_schema=ResponseSchema(schema=schema), max_tokens=64),
            Call(deadline=time.monotonic() + 60),
        )
    assert "response_schema cannot be held to: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_k22_a_template_without_an_end_is_ended(
    tmp_path: Path, chat: LocalChat, monkeypatch: pytest.MonkeyPatch
):
    from cloudai.engine import generation

    monkeypatch.setattr(generation, "TEMPLATE_SECONDS", 0.3)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    model = llama(tmp_path / "m", template=loops)
    began = time.monotonic()
    with pytest.raises(InvalidRequest, match=r"chat template of m has no end within 0\.3 s"):
        chat.create(ask(model=model), Call())
    assert time.monotonic() - began < 20
    # The thread is as it was: nothing else is ended by it.
    assert chat.create(ask(model=scripted(SAYS)), Call()).text == SAYS


def test_k22_what_ends_in_time_is_left_alone():
    from cloudai.engine import bounded

    before = threading.active_count()
    for _ in range(200):
        with bounded.within(60.0):
            pass
    assert threading.active_count() <= before + 1
    assert not bounded._WATCH._entries
    with pytest.raises(KeyError), bounded.within(60.0):
        raise KeyError
    with pytest.raises(bounded.Late), bounded.within(0.02):
        while True:
            pass
    for _ in range(300):  # an end that comes as the work is done
        with suppress(bounded.Late), bounded.within(0.0):
            pass
    assert not bounded._WATCH._entries
