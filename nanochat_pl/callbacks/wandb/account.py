"""Where W&B is and whether this machine may write there, from the environment; nothing is asked."""

import netrc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from nanochat_pl.core.errors import UserError, nearest

DEFAULT_URL = "https://api.wandb.ai"
MODES: dict[str, Literal["online", "offline", "disabled"]] = {
    "online": "online", "shared": "online", "run": "online",
    "offline": "offline", "dryrun": "offline", "disabled": "disabled",
}  # fmt: skip
"""WANDB_MODE, with W&B's older names."""


@dataclass(frozen=True)
class Account:
    """How W&B is reached.

    Attributes:
        mode: offline keeps everything in the run folder, to be sent later; disabled does nothing.
        why: it is not online, as a sentence.
    """

    url: str
    mode: Literal["online", "offline", "disabled"]
    why: str = ""

    @classmethod
    def here(cls) -> "Account":
        """By WANDB_MODE, WANDB_BASE_URL (or the seeds' WANDB_HOST), WANDB_RUN, and the key where W&B keeps it.

        Raises:
            UserError: there is no such mode.
        """
        url = os.environ.get("WANDB_BASE_URL") or os.environ.get("WANDB_HOST") or DEFAULT_URL
        url = (url if "://" in url else f"https://{url}").rstrip("/")
        asked = os.environ.get("WANDB_MODE") or "online"
        if asked not in MODES:
            legal = list(MODES)
            raise UserError(f"WANDB_MODE is {asked!r}{nearest(asked, legal)} Legal values: online, offline, disabled.")
        if os.environ.get("WANDB_RUN") == "dummy":  # nanochat's word for none
            return cls(url, "disabled", "WANDB_RUN is dummy.")
        if MODES[asked] != "online":
            return cls(url, MODES[asked], f"WANDB_MODE is {asked}.")
        if not has_key(url):
            return cls(url, "offline", f"There is no key for {url} here (`wandb login`, or WANDB_API_KEY).")
        return cls(url, "online")


def has_key(url: str) -> bool:
    """Whether a key for W&B is in the environment or in the .netrc, where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    named = os.environ.get("NETRC")
    for path in [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if any((netrc.netrc(path).authenticators(urlparse(url).netloc) or ())[2:]):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
