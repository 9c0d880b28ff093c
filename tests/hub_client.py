"""The real client libraries of the hub, led to a `HubServer`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import HubServer


def hub_environment(hub: HubServer, folder: Path, token: str | None = None) -> dict[str, str]:
    """Variables with which another process knows no other hub, and caches under `folder`."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "huggingface"),
        "HF_TOKEN": token or "",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "NO_PROXY": "127.0.0.1",
    }


@contextlib.contextmanager
def hub_client(hub: HubServer, folder: Path, token: str | None = None) -> Iterator[None]:
    """Inside, `datasets` and `huggingface_hub` of this process know no other hub, and cache under `folder`.

    Both read their environment when they are imported, so what they made of it is replaced.
    """
    import datasets.config
    import huggingface_hub
    from huggingface_hub import constants, hf_api

    def forget_connections() -> None:
        huggingface_hub.utils.close_session()
        huggingface_hub.HfFileSystem.clear_instance_cache()

    home = folder / "huggingface"
    replaced: list[tuple[object, dict[str, object]]] = [
        (
            constants,
            {
                "ENDPOINT": hub.url,
                "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
                "HF_TOKEN_PATH": str(home / "token"),
                "HF_HUB_CACHE": str(home / "hub"),
                "HF_HUB_OFFLINE": False,
                "HF_HUB_DISABLE_TELEMETRY": True,
            },
        ),
        (hf_api.api, {"endpoint": hub.url}),
        (
            datasets.config,
            {
                "HF_ENDPOINT": hub.url,
                "HUB_DATASETS_URL": hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}",
                "HF_DATASETS_CACHE": home / "datasets",
                "HF_MODULES_CACHE": home / "modules",
                "DOWNLOADED_DATASETS_PATH": home / "datasets" / "downloads",
                "HF_UPDATE_DOWNLOAD_COUNTS": False,
                "USE_PARQUET_EXPORT": False,
                "HF_HUB_OFFLINE": False,
                "HF_DATASETS_OFFLINE": False,
            },
        ),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, text in hub_environment(hub, folder, token).items():
            patch.setenv(name, text)
        for owner, values in replaced:
            for name, value in values.items():
                patch.setattr(owner, name, value)
        forget_connections()
        try:
            yield
        finally:
            forget_connections()
