"""The page of a frame, as Remotion's renderer opens it: what stands in it as text."""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS = {
    "remotion_attempt": 1, "remotion_proxyPort": 0, "remotion_audioEnabled": False, "remotion_videoEnabled": False,
    "remotion_logLevel": "error", "remotion_puppeteerTimeout": 30_000, "remotion_isMainTab": True,
    "remotion_envVariables": "{}",
}  # fmt: skip
TEXTS = """[...document.querySelectorAll("svg text, div, span")].filter(
  node => !node.childElementCount).map(node => node.textContent).filter(Boolean)"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder at an address of this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def texts_of_last_frame(page: Any, address: str, composition: str, scene: dict[str, Any]) -> list[str]:
    """The texts on the canvas at the end of a composition."""
    props = json.dumps({"scene": scene})
    page.goto(f"{address}/favicon.ico")  # another document: the compositions are loaded anew
    page.add_init_script(f"Object.assign(window, {json.dumps(SETTINGS | {'remotion_inputProps': props})})")
    page.goto(f"{address}/index.html")
    page.wait_for_function("typeof window.getStaticCompositions === 'function'")
    _set_mode(page, type="evaluation")
    frames = page.evaluate("id => window.remotion_calculateComposition(id)", composition)["durationInFrames"]
    page.evaluate("frame => { window.remotion_initialFrame = frame; }", frames - 1)
    _set_mode(
        page, type="composition", compositionName=composition, serializedResolvedPropsWithSchema=props,
        compositionDurationInFrames=frames, compositionFps=30, compositionHeight=720, compositionWidth=1280,
    )  # fmt: skip
    page.wait_for_selector("svg text", state="attached")
    return page.evaluate(TEXTS)


def _set_mode(page: Any, **mode: Any) -> None:
    page.evaluate("mode => window.remotion_setBundleMode(mode)", mode)
    page.wait_for_function("window.remotion_renderReady === true")
