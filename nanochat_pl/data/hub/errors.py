"""The hub's refusals in words that help: what there is, and what to do."""

import re

from nanochat_pl.core.errors import MachineError, UserError, nearest


def access_error(error: Exception, repo: str, revision: str | None) -> UserError | MachineError:
    """What an answer of the hub that is none (4xx) means, and what to do about it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    hub, token = constants.ENDPOINT, _token()
    if isinstance(error, GatedRepoError):
        return gated_error(repo)
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"There is no data set {repo} on {hub} that {token} may see{_other_repos(repo)} If it is private, set "
            "HF_TOKEN to a token that may read it."
        )
    if isinstance(error, RevisionNotFoundError):
        there_are = _revisions(repo)
        listed = f" (there are: {', '.join(there_are)}){nearest(str(revision), there_are)}" if there_are else "."
        return UserError(
            f"{repo} has no revision '{revision}'{listed} Choose one with data.revision, or null for the newest."
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        return UserError(f"{hub} refuses {token} the access to {repo} (status {status}). Set HF_TOKEN to one that may.")
    return MachineError(f"{hub} has no answer about {repo}: {error}")


def gated_error(repo: str) -> UserError:
    """The data set's terms were not accepted."""
    from huggingface_hub import constants

    return UserError(
        f"{repo} is a gated data set, and {_token()} has no access. Accept its terms at "
        f"{constants.ENDPOINT}/datasets/{repo}, and set HF_TOKEN to a token of that account."
    )


def _token() -> str:
    from huggingface_hub import get_token

    return "the token in HF_TOKEN" if get_token() else "a request without HF_TOKEN"


def _other_repos(repo: str) -> str:
    """The data sets of the same organisation, as the end of a sentence."""
    from huggingface_hub import HfApi

    try:
        names = [info.id for info in HfApi().list_datasets(author=repo.split("/")[0], limit=1000)]
    except Exception:  # only a hint: whatever happens here, the error that is being explained matters more
        return "."
    hint = nearest(repo, names)
    if hint != ".":
        return hint
    return f" (of {repo.split('/')[0]} there are: {', '.join(names[:20])})." if names else "."


def _revisions(repo: str) -> list[str]:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repo, repo_type="dataset")
    except Exception:  # only a hint, as above
        return []
    return [re.sub(r"^refs/(heads|tags)/", "", ref.ref) for ref in [*refs.branches, *refs.tags, *refs.converts]]
