"""Calls Remotion, which draws a scene in a browser: what it needs, the bundle, stills and videos."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.paths import replacing, write_text
from nanochat_pl.video.scene import Scene

FOLDER = Path(__file__).resolve().parents[2] / "remotion"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER_OF_MACS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
OPTIONS = {
    ".mp4": ("--codec=h264", "--pixel-format=yuv420p"),
    ".webm": ("--codec=vp9", "--pixel-format=yuv420p"),
    ".mov": ("--codec=prores", "--pixel-format=yuv422p10le"),
    ".gif": ("--codec=gif", "--every-nth-frame=3", "--scale=0.5"),
    ".png": (),
}
"""What Remotion is told for each kind of file; a gif is small and slow, as those in a README are."""
SUBTITLED = (".mp4", ".webm", ".mov")
LAST_FRAME = -1
REFUSED = r"(These are not the figures that|Could not find composition with ID|Cannot use frame) .*"
LEAST_NODE = 20
KEPT_WORDS = 12
"""Lines of what Remotion said last, where it failed."""


def render(
    content: Scene,
    composition: str,
    out: Path,
    frame: int = LAST_FRAME,
    tell: Callable[[float], None] = lambda share: None,
) -> list[Path]:
    """Draw a scene into a file, which is written at once or not at all; the captions of a video into another beside it.

    Args:
        out: its ending says what is drawn: a video, or (.png) one frame.
        frame: of a png; negative ones count from the end.
        tell: is told now and then how much is done, from 0 to 1.

    Returns:
        What was written: `out`, and of a video the same with .vtt (WebVTT), where its composition has captions.

    Raises:
        UserError: something is not installed, or the composition refuses the scene.
        MachineError: Remotion failed otherwise.
    """
    program, browser = find_program(FOLDER), find_browser()
    bundle = built(program)
    with tempfile.TemporaryDirectory(prefix=".video-", dir=out.resolve().parent) as place:
        props, drawn = Path(place, "props.json"), Path(place, f"drawn{out.suffix.lower()}")
        subtitles = Path(place, "subtitles.vtt").resolve()
        told = os.path.relpath(subtitles, FOLDER / "out" / composition)  # Remotion takes it from there
        props.write_text(json.dumps({"scene": content, "subtitles": told}, allow_nan=False), encoding="utf-8")
        is_still = drawn.suffix == ".png"
        command = [program, "still" if is_still else "render", bundle, composition, drawn, f"--props={props}"]
        command += [f"--frame={frame}"] if is_still else ["--image-format=png", "--concurrency=100%"]
        run([*command, f"--browser-executable={browser}", *OPTIONS[drawn.suffix]], tell)
        with replacing(out) as temporary:
            shutil.copyfile(drawn, temporary)
        if drawn.suffix not in SUBTITLED or not subtitles.exists():
            return [out]
        write_text(out.with_suffix(".vtt"), subtitles.read_text(encoding="utf-8"))
        return [out, out.with_suffix(".vtt")]


def find_program(folder: Path) -> Path:
    """Remotion's command line, in `folder`, the checkout's remotion/.

    Raises:
        UserError: node, or the packages of remotion/, are not installed; node is too old.
    """
    version = _version_of_node()
    found = re.match(r"v(\d+)\.", version)
    if found is None or int(found[1]) < LEAST_NODE:
        here = f"`node --version` says '{version}' here" if shutil.which("node") else "there is no `node` here"
        raise UserError(
            f"Videos are drawn by Remotion, which needs node {LEAST_NODE} or newer, and {here}. Install it with "
            "npm and a browser (Debian, Ubuntu: apt install nodejs npm chromium; macOS: brew install node), then the "
            "packages: npm ci --prefix remotion. Without them, --data-only writes the figures as JSON, and --flat "
            "draws attention and the pipeline as a PNG."
        )
    if not (folder / "package.json").is_file():
        raise UserError(
            f"Videos are drawn by the folder remotion/ of a checkout of nanochat-pl, and {folder} is not there: this "
            "is an installed package. Clone the repository, or take --data-only or --flat, which need no drawing there."
        )
    program = folder / "node_modules" / ".bin" / "remotion"
    if not program.exists():
        raise UserError(
            f"The packages of {folder} are not installed: npm ci --prefix {os.path.relpath(folder)} does it (320 MB). "
            "Without them, --data-only writes the figures as JSON."
        )
    return program


def _version_of_node() -> str:
    """As node tells it; empty where there is none, or none that runs."""
    try:
        return subprocess.run(["node", "--version"], capture_output=True, text=True, errors="replace").stdout.strip()
    except OSError:
        return ""


def find_browser() -> str:
    """A browser of this machine: REMOTION_BROWSER, else Chromium or Chrome.

    Raises:
        UserError: there is none.
    """
    named = os.environ.get("REMOTION_BROWSER")
    for name in (named,) if named else (*BROWSERS, BROWSER_OF_MACS):
        if found := shutil.which(name):
            return found
    missing = f"REMOTION_BROWSER names {named}, which cannot be run" if named else "there is none here"
    raise UserError(
        f"Videos are drawn in a browser, Chromium or Chrome, and {missing}. Install one (Debian, Ubuntu: apt install "
        "chromium), or name it: REMOTION_BROWSER=/path/to/chrome. --data-only writes the figures without one."
    )


def built(program: Path) -> Path:
    """The compositions as the browser loads them, made anew when a source is newer."""
    bundle = FOLDER / "build"
    sources = [*(FOLDER / "src").rglob("*.*"), FOLDER / "package-lock.json"]
    newest = max(path.stat().st_mtime for path in sources)
    index = bundle / "index.html"
    if not index.exists() or index.stat().st_mtime < newest:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=FOLDER) as place:
            fresh = Path(place, "build")
            run([program, "bundle", "src/index.ts", "--rspack", f"--out-dir={fresh}"])
            shutil.rmtree(bundle, ignore_errors=True)
            os.replace(fresh, bundle)
    return bundle


def run(command: list[str | Path], tell: Callable[[float], None] = lambda share: None) -> None:
    """Run Remotion to its end.

    Raises:
        UserError: the composition refuses the scene; there is no such composition or frame.
        MachineError: it failed otherwise; with its last words.
    """
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=FOLDER,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.rstrip())
            if match := re.search(r"(?:Rendered|Encoded) (\d+)/(\d+)", line):
                tell(int(match[1]) / int(match[2]))
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    if process.returncode:
        raise _failure(lines)


def _failure(lines: list[str]) -> Exception:
    text = "\n".join(lines)
    if refused := re.search(REFUSED, text):
        return UserError(f"Remotion refused to draw it. {refused[0]}")
    said = "\n".join(line for line in lines if line.strip())
    return MachineError("Remotion failed. It said last:\n" + "\n".join(said.splitlines()[-KEPT_WORDS:]))
