"""SOURCE on the command line: which data a `data` command is about."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nanochat_pl.config.specs import Specs

Source = Annotated[
    str,
    typer.Argument(
        help="A data set by its name in conf/data (fineweb_edu, climbmix, shakespeare ...), or a file, glob or folder.",
        metavar="[SOURCE]",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="As for train.py: data.text_key=body ...", metavar="[KEY=VALUE]...")
]

DEFAULT_SOURCE = "fineweb_edu"


def specs_for(source: str, overrides: list[str] | None) -> "Specs":
    """All specs, with the data that SOURCE names.

    A folder that holds parquet and nothing else is taken as a data set laid out as on the hub, any other path as files
    of text.

    Raises:
        UserError: there is no such data set or option; a KEY=VALUE stands in SOURCE's place.
    """
    if "=" in source and not Path(source).exists():
        source, overrides = DEFAULT_SOURCE, [source, *(overrides or [])]
    return composed([*_selection(source), *(overrides or [])])


def composed(arguments: list[str]) -> "Specs":
    """All specs of a command with these arguments.

    Raises:
        UserError: there is no such option.
    """
    from nanochat_pl.config.compose import compose
    from nanochat_pl.config.explain import composing
    from nanochat_pl.config.specs import Specs

    with composing(arguments):
        return Specs.of(compose(arguments))


def _selection(source: str) -> list[str]:
    from nanochat_pl.config.compose import CONF_FOLDER
    from nanochat_pl.data.text_files import SUFFIXES

    path = Path(source).expanduser()
    is_name = source.replace("_", "").replace("-", "").isalnum()
    if is_name and ((CONF_FOLDER / "data" / f"{source}.yaml").exists() or not path.exists()):
        return [f"data={source}"]
    if path.is_dir() and {file.suffix for file in path.rglob("*") if file.suffix in SUFFIXES} == {".parquet"}:
        return ["data=hub", f"data.path={json.dumps(source)}"]
    return ["data=text", f"data.files={json.dumps([source])}"]
