"""Talk to a model: `python serve.py [model=runs/NAME/STAGE] [port=8000] [key=value ...]`.

Serves a chat page at / and an OpenAI-compatible API at /v1 (docs/serving.md). These are the options:

"""

import sys
from typing import Any, cast

from nanochat_pl.config.compose import CONF_FOLDER
from nanochat_pl.core.errors import EXIT_SIGINT, UserError, nearest
from nanochat_pl.core.paths import known_error

OPTIONS = CONF_FOLDER / "serve.yaml"
TEXTS = ("model", "host", "api_key")
"""Options whose values are taken as they are written."""


def read_options(arguments: list[str]) -> dict[str, Any]:
    """The options of conf/serve.yaml with those of the command line over them.

    Without Hydra: it takes `model=` for a choice of the group conf/model, and the commas in a run's name for a sweep.

    Raises:
        UserError: an argument that is no option.
    """
    import yaml
    from omegaconf import OmegaConf

    options = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(OPTIONS), resolve=True))
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in options:
            hint = nearest(key, list(options))
            raise UserError(f"There is no option '{argument}'{hint} Options (key=value): {', '.join(options)}.")
        try:
            options[key] = value if key in TEXTS and value != "null" else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"The value of {argument!r} cannot be understood: {error}.") from error
    return options


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit code: 143 or 130 after a signal, 2 at the user's mistake."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__ + OPTIONS.read_text(encoding="utf-8"))
        return 0
    try:
        from nanochat_pl.demo.server import ServeSpec, serve

        return serve(ServeSpec(**read_options(arguments)))
    except KeyboardInterrupt:
        return EXIT_SIGINT
    except Exception as error:
        known = known_error(error)
        if known is None:
            raise
        print(f"\n{known}", file=sys.stderr)
        return known.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
