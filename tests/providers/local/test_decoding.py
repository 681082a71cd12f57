"""Answers decoded together: against transformers' own, whoever else is running."""

from __future__ import annotations

import pytest
from _decoding_fixtures import FAMILIES, Asked, greedy, model, prompts


def engine_of(family: str):
    from cloudai.engine.decoding.build import build

    return build(model(family), family, "cpu", 256)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_transformers_own_alone_and_among_63_others(family: str):
    asked = prompts(64)
    plain = [greedy(model(family), prompt, 12) for prompt in asked[:6]]
    assert len({tuple(text) for text in plain}) > 3, "the model always says the same"
    engine = engine_of(family)
    try:
        assert Asked(engine, asked[0], 12).tokens() == plain[0]
        together = [Asked(engine, prompt, 12) for prompt in asked]
        assert [one.tokens() for one in together[:6]] == plain
        assert [len(one.tokens()) for one in together[6:]] == [12] * 58
    finally:
        engine.runner.bound.release()


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_transformers_own_wherever_a_prompt_is_cut(family: str):
    import torch

    from cloudai.engine.decoding.runner import Piece

    (text,) = prompts(1, longest=60)
    text = (text * 60)[:60]
    with torch.inference_mode():
        own = model(family)(input_ids=torch.tensor([text]), use_cache=False).logits[0]
        engine = engine_of(family)
        try:
            store = engine.runner.store
            seat, _ = store.begin(text)
            assert store.reserve(seat, len(text))
            for start, end in ((0, 5), (5, 33), (33, 34), (34, 60)):
                scores = engine.runner.scores(Piece(seat, text, start, end - start))
                torch.testing.assert_close(scores[0], own[end - 1], atol=1e-4, rtol=1e-4)
        finally:
            engine.runner.bound.release()
