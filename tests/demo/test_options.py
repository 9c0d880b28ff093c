"""The options of serve.py."""

import pytest

import serve
from nanochat_pl.core.errors import UserError
from nanochat_pl.demo.server import ServeSpec


def test_the_file_holds_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NANOCHAT_PL_API_KEY", raising=False)
    assert ServeSpec(**serve.read_options([])) == ServeSpec()


def test_values_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_PL_API_KEY", "from the environment")
    assert serve.read_options([])["api_key"] == "from the environment"
    arguments = [
        "model=runs/tiny,model.depth=6/base", "api_key=12345", "port=0", "workers=2", "page=false",
        "cors_origins=[https://a.example, http://b.example:80]", "device=cpu", "time_limit_seconds=2.5",
    ]  # fmt: skip
    spec = ServeSpec(**serve.read_options(arguments))
    assert spec.model == "runs/tiny,model.depth=6/base" and spec.api_key == "12345"
    assert spec.cors_origins == ("https://a.example", "http://b.example:80") and spec.page is False
    assert serve.read_options(["model=x", "model=null"])["model"] is None


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("port=-1", "between 1 and 65535"),
        ("workers=0", "at least 1"),
        ("max_queue=-1", "at least 0"),
        ("time_limit_seconds=0", "above 0"),
        ("device=tpu", "'cpu', 'cuda', 'mps'"),
        ("api_key=", "api_key is empty"),
        ("page=maybe", "true or false"),
        ("model", "There is no option 'model'"),
        ("+model=x", "did you mean 'model'"),
    ],
)
def test_wrong_options_are_named(argument: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ServeSpec(**serve.read_options([argument]))


def test_help_shows_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["--help"]) == 0
    assert "model=runs/NAME/STAGE" in capsys.readouterr().out
