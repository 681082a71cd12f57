"""Answers decoded together: against transformers' own, whoever else is running."""

from __future__ import annotations

import random
import time

import pytest
from _decoding_fixtures import FAMILIES, Asked, greedy, model, prompts

from cloudai.errors import CapacityError


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


# ------------------------------------------------------------------ sharing one engine


@pytest.fixture
def engine():
    made = engine_of("Llama")
    yield made
    made.runner.bound.release()


def until_idle(engine) -> None:
    limit = time.monotonic() + 60
    while not engine.idle or engine.runner.store.taken:
        assert time.monotonic() < limit, "seats are not given back"
        time.sleep(0.005)


def counted(engine) -> list[int]:
    """How many tokens each forward that reads a prompt gets; a list that grows."""
    sizes: list[int] = []
    plain = engine.runner.scores

    def scores(piece):
        sizes.append(piece.size)
        return plain(piece)

    engine.runner.scores = scores
    return sizes


def test_a_prefix_that_was_read_is_not_read_again(engine):
    system = (prompts(1)[0] * 200)[:150]
    asked = [[*system, 10 + at, 20 + at] for at in range(4)]
    plain = [greedy(model_of_own(), prompt, 8) for prompt in asked]
    sizes = counted(engine)
    assert Asked(engine, asked[0], 8).tokens() == plain[0]
    until_idle(engine)
    assert sum(sizes) == 152
    together = [Asked(engine, prompt, 8) for prompt in asked]
    assert [one.tokens() for one in together] == plain
    assert sum(sizes) - 152 <= 4 * 2


def model_of_own():
    """A second model of the same weights, whose attention is its own."""
    return model.__wrapped__("Llama")


def test_what_finds_no_room_is_put_back_and_read_again(monkeypatch: pytest.MonkeyPatch):
    import torch

    from cloudai.engine.decoding import rows
    from cloudai.engine.decoding.attention import Bound
    from cloudai.engine.decoding.engine import Engine
    from cloudai.engine.decoding.rows import Rows
    from cloudai.engine.decoding.runner import Runner

    asked = prompts(6, longest=100)
    plain = [greedy(model("Llama"), prompt, 130) for prompt in asked]
    bound = Bound(model("Llama"))
    try:
        monkeypatch.setattr(rows, "FIRST", (4, 64))
        # Room for two long texts, and for three as long as they are short.
        store = Rows(bound.shape, torch.float32, "cpu", most=4, tokens=800, context=256)
        engine = Engine(Runner(bound, store), "Llama", alone=64, beside=16)
        back: list[int] = []
        plainly = engine._put_back
        monkeypatch.setattr(
            engine,
            "_put_back",
            lambda one, again=True: (back.append(one.number), plainly(one, again))[1],
        )
        together = [Asked(engine, prompt, 130) for prompt in asked]
        assert [one.tokens() for one in together] == plain
        assert back
        until_idle(engine)
    finally:
        bound.release()


def test_a_seed_gives_the_same_text_whoever_else_is_running(engine):
    prompt = prompts(1)[0]
    fields = {"temperature": 1.3, "top_p": 0.9, "frequency_penalty": 0.4, "seed": 11}
    alone = Asked(engine, prompt, 20, **fields).tokens()
    others = [Asked(engine, one, 20, temperature=1.0, top_k=5) for one in prompts(30)]
    among = Asked(engine, prompt, 20, **fields).tokens()
    assert among == alone
    assert Asked(engine, prompt, 20, **{**fields, "seed": 12}).tokens() != alone
    assert all(len(one.tokens()) == 20 for one in others)


def test_a_full_queue_says_so(engine):
    engine._queue = 3
    with engine._mail.turn:  # so that nothing leaves the queue
        asked = [Asked(engine, [5, 6], 4) for _ in range(3)]
        with pytest.raises(CapacityError, match="3 requests wait for Llama; its queue is full"):
            Asked(engine, [5, 6], 4)
    assert [len(one.tokens()) for one in asked] == [4, 4, 4]
    with pytest.raises(CapacityError, match="room for 256 tokens.*need 302"):
        Asked(engine, [5, 6], 300)


def test_a_thousand_requests_with_two_hundred_that_leave(engine):
    """None lost, none mixed, all seats back, and no memory but the rows'."""
    chance = random.Random(4)
    asked = prompts(20, longest=30)
    plain = [greedy(model_of_own(), prompt, 12) for prompt in asked]
    leaves = set(chance.sample(range(1000), 200))
    sent: list[tuple[int, int, Asked]] = []
    for at in range(1000):
        which, limit = chance.randrange(20), chance.randint(1, 12)
        one = Asked(engine, asked[which], limit)
        sent.append((which, limit, one))
        if at in leaves:
            if at % 3 == 0:  # in the middle of its text
                one.pieces.get(timeout=60)
            one.request.leave()
    for at, (which, limit, one) in enumerate(sent):
        if at not in leaves:
            assert one.tokens() == plain[which][:limit]
    until_idle(engine)
    store = engine.runner.store
    assert sorted(store._free) == list(range(store._rows))
    assert store._rows <= store.most
    assert not engine._flights
    assert Asked(engine, asked[0], 12).tokens() == plain[0]


def test_frequent_tokens_are_penalised_as_openai_has_it(engine):
    """The scores fall by the presence once, and by the frequency for each time it stands there."""
    import torch

    from cloudai.engine.decoding.sampling import Counts, Kind, Sampling, choose

    how = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    counts = Counts(1, 4, "cpu")
    counts.begin(0, [3], [0, 0, 1])
    scores = torch.tensor([[2.0, 1.5, 1.1, 0.9]])  # then 1.0, 0.75, 1.1, 0.9: not the prompt's
    seeds = torch.zeros(1, dtype=torch.long)
    table = torch.tensor([how.numbers()])
    token = choose(scores, table, seeds, seeds, Kind.of([how]), (counts.given, counts.made))
    assert token.tolist() == [2]
