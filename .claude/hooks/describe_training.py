"""What the options of train.py would train, as JSON: run by the project's interpreter, for before_training.py.

Prints {"error": ...} for options that train.py would refuse, else {"run": folder, "accelerator": ..., "devices": ...}.
"""

import json
import sys

from nanochat_pl.config.compose import compose, run_name
from nanochat_pl.config.explain import composing
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder

arguments = sys.argv[1:]
try:
    with composing(arguments):
        config = compose(arguments)
    run = RunFolder.of(run_name(config, arguments), config.stage.name)
    said = {"run": str(run.path), "accelerator": config.hw.accelerator, "devices": config.hw.devices}
except UserError as error:
    said = {"error": str(error)}
print(json.dumps(said))
