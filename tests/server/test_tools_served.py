"""Tools and reasoning through `cloudai serve`, with OpenAI's own SDK as the client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
from running_server import Start
from support.models import ASKS_THINKING, HERMES, writes

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def test_i15_4_openais_sdk_calls_tools_and_reads_reasoning(start: Start, tmp_path: Path) -> None:
    pieces = ("I'll look.", "<tool_call>")
    model = writes(tmp_path / "m", *pieces, template=HERMES, special=pieces[1:])
    thinker = writes(tmp_path / "n", "<think>", "Hm.", "</think>", "\n\n", "Blue.",
                     template=HERMES + ASKS_THINKING)  # fmt: skip
    server = start("--model", f"caller={model}", "--model", f"thinker={thinker}",
                   "--device", "cpu", "--dtype", "float32")  # fmt: skip
    url = f"{server.http.base_url}/v1"
    with openai.OpenAI(
        base_url=url, api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        turns: list[Any] = [{"role": "user", "content": "Weather?"}]
        made = client.chat.completions.create(model="caller", messages=turns, tools=[WEATHER])
        (choice,) = made.choices
        assert (choice.message.content, choice.finish_reason) == ("I'll look.", "tool_calls")
        (call,) = choice.message.tool_calls or ()
        assert call.type == "function"
        assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')
        turns += [
            choice.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "sun"},
        ]
        with client.chat.completions.stream(
            model="caller", messages=turns, tools=[WEATHER], tool_choice="auto",
            stream_options={"include_usage": True},
        ) as stream:  # fmt: skip
            events = [event.type for event in stream]
            last = stream.get_final_completion()
        assert events.count("tool_calls.function.arguments.delta") > 1
        (streamed,) = last.choices[0].message.tool_calls or ()
        assert streamed.function.arguments == '{"city": "Paris"}'
        assert (last.choices[0].message.content, last.choices[0].finish_reason) == (
            "I'll look.",
            "tool_calls",
        )
        forced = client.chat.completions.create(
            model="caller", messages=turns, tools=[WEATHER], tool_choice="required"
        )
        assert forced.choices[0].message.content is None
        thought = client.chat.completions.create(
            model="thinker", messages=turns[:1], reasoning_effort="low"
        )
        message = thought.choices[0].message
        assert (message.content, message.model_extra) == ("Blue.", {"reasoning_content": "Hm."})
        assert thought.usage is not None
        details = thought.usage.completion_tokens_details
        assert details is not None
        assert (details.reasoning_tokens or 0) > 0
        deltas = list(client.chat.completions.create(
            model="thinker", reasoning_effort="low", stream=True,
            messages=[*turns[:1], {"role": "assistant", "content": "a", "reasoning_content": "b"},
                      *turns[:1]],
        ))  # fmt: skip
        told = [(one.choices[0].delta.model_extra or {}).get("reasoning_content") for one in deltas]
        assert "".join(one or "" for one in told) == "Hm."
