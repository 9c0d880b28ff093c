"""Small texts of different kinds (samples.yaml), on which tokenizers are compared."""

from pathlib import Path

import yaml

SAMPLES: dict[str, str] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
"""Kind of text -> the sample."""
