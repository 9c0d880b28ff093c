"""One file of a repository on the Hugging Face hub."""

from pathlib import Path

from nanochat_pl.core.errors import MachineError, UserError

ON_HUB = "hf:"
"""Before the name of a repository on the hub, where a name may also be a folder."""


def download(repo: str, file: str, what: str, instead: str) -> Path | None:
    """A file of a repository, from the hub or its cache; None where it has no such file.

    Args:
        what: it belongs to, such as "the tokenizer".
        instead: what may be named where there is no network.

    Raises:
        UserError: there is no such repository, or its terms have to be accepted first.
        MachineError: the hub cannot be reached.
    """
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise UserError(
            f"Fetching {what} {repo} needs the library huggingface_hub. Install it with: pip install 'nanochat-pl[hf]'"
        ) from error
    try:
        return Path(hf_hub_download(repo, file))
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is given only to those who have accepted its terms: accept them on its page on the hub, then set "
            "HF_TOKEN, or name a local folder."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UserError(
            f"There is no file or folder {repo} here, and no repository of that name on the Hugging Face hub (or only "
            "with another HF_TOKEN)."
        ) from error
    except errors.RemoteEntryNotFoundError:
        return None
    except OSError as error:
        raise MachineError(
            f"T{what[1:]} {repo} could not be fetched from the Hugging Face hub: {str(error).splitlines()[0]} Where "
            f"there is no network, name {instead}."
        ) from error
