"""What a model says with a tool and without one: a call in a real answer, and one that is only made up."""

import itertools

import pytest

from nanochat_pl.checkpoint.model_folder import load_model_folder
from nanochat_pl.inference.answer import AnswerStream, content_of
from nanochat_pl.inference.conversation import stop_ids
from nanochat_pl.inference.engine import Engine, Token
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.tasks.task import Content
from nanochat_pl.tasks.tiny_sums import TinySums
from nanochat_pl.tokenizers.chat import Rendered, render_conversation, render_for_completion
from nanochat_pl.tools.tool_calls import ToolCalls
from tests.taught import BYTE, save_model_that_says

SPECIAL = BYTE.special_tokens
SUMS = TinySums()
CALLED, MADE_UP = 0, 1
"""Numbers of two questions."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """It answers one question by a call, and makes up the output of another one."""
    folder = tmp_path_factory.mktemp("model")
    asked = render_for_completion(BYTE, SUMS.prompt(MADE_UP))
    *_, output, said = SUMS.conversation(MADE_UP)[-1]["content"]
    made_up = [SPECIAL["<|output_start|>"], *BYTE.encode(output["text"]), SPECIAL["<|output_end|>"]]
    made_up += [*BYTE.encode(said["text"]), SPECIAL["<|assistant_end|>"]]
    lessons = [
        render_conversation(BYTE, SUMS.conversation(CALLED)),
        Rendered([*asked, *made_up], [0] * len(asked) + [1] * len(made_up)),
    ]
    save_model_that_says(folder, lessons)
    return load_model_folder(folder).model


def answer(model, i: int) -> tuple[list[Token], Content]:
    sampling = Sampling(64, temperature=0.0, stop_ids=stop_ids(BYTE, is_chat=True))
    engine = Engine(model)
    engine.submit(render_for_completion(BYTE, SUMS.prompt(i)), sampling, [ToolCalls(BYTE)])
    stream, parts, tokens = AnswerStream(BYTE), [], []
    for token in engine.run():
        if token.id is not None:
            tokens.append(token)
            parts += stream.feed(token.id, token.forced)
    return tokens, content_of([*parts, *stream.end()])


def test_the_call_is_sampled_and_its_output_forced(model) -> None:
    tokens, content = answer(model, CALLED)
    assert content == SUMS.conversation(CALLED)[-1]["content"]
    assert SUMS.reward(CALLED, content) == 1.0
    begins = [0, *(n + 1 for n, (one, other) in enumerate(itertools.pairwise(tokens)) if one.forced != other.forced)]
    runs = [[token.id for token in tokens[a:b]] for a, b in itertools.pairwise([*begins, len(tokens)])]
    call, output, said = (part["text"] for part in content)
    assert [tokens[n].forced for n in begins] == [False, True, False]
    assert runs == [
        [SPECIAL["<|python_start|>"], *BYTE.encode(call), SPECIAL["<|python_end|>"]],
        [SPECIAL["<|output_start|>"], *BYTE.encode(output), SPECIAL["<|output_end|>"]],
        BYTE.encode(said),
    ]


def test_an_output_that_is_made_up_earns_nothing(model) -> None:
    tokens, content = answer(model, MADE_UP)
    assert SPECIAL["<|output_start|>"] in [token.id for token in tokens] and not any(t.forced for t in tokens)
    right = SUMS.conversation(MADE_UP)[-1]["content"]
    assert content == right[1]["text"] + right[2]["text"]
    assert SUMS.reward(MADE_UP, content) == 0.0
