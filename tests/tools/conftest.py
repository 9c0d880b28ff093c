"""Whether the sandbox can work where the tests run."""

import pytest

from nanochat_pl.tools.sandbox import SandboxUnavailable, check_sandbox


@pytest.fixture(scope="session")
def bubblewrap() -> None:
    """Skips the test, with the reason, where bubblewrap is missing or not allowed."""
    try:
        check_sandbox()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
