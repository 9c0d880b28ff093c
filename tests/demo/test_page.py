"""The page in a real browser, at a desk and on a phone, against a real server.

Screenshots are kept in the folder that NANOCHAT_PL_SCREENSHOTS names, else in the tests' temporary folders.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.demo.served_models import ALPHABET, alphabet, save_model
from tests.demo.serving import PATIENCE_SECONDS, Server
from tests.demo.small_talk import ANSWERS, MARKUP, save_small_talk

playwright_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
from playwright.sync_api import Browser, Locator, Page, expect  # noqa: E402

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESK = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
SIZES = {"desk": DESK, "phone": PHONE}
any_size = pytest.mark.parametrize("size", ["desk"])
"""Of tests of what the page does, however it looks."""
Shoot = Callable[[str], None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="the page is tested with chromium, which is not installed"),
]
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that never comes to an end, and the newest: a chat model with answers of its own."""
    runs = tmp_path_factory.mktemp("runs")
    save_model(runs / "abc/base/model", ALPHABET, context_tokens=20_000, stage="base")
    save_small_talk(runs / "talk/sft/model")
    return runs


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[Server]:
    server = Server(runs, "workers=1", "max_rows=4")
    yield server
    server.kill()
    assert "Traceback" not in server.output.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def page(browser: Browser, server: Server, size: str) -> Iterator[Page]:
    """The page, loaded; afterwards it must have asked nobody but the server, and have met no error."""
    context = browser.new_context(**SIZES[size], color_scheme="light")
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(server.url)
    expect(page.locator(".welcome h1")).not_to_be_empty()
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    expect(page.locator("#message")).to_be_in_viewport(ratio=1)
    context.close()
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert len(asked) > 10 and hosts == {"127.0.0.1"}
    assert not errors


@pytest.fixture
def shoot(page: Page, size: str, tmp_path: Path) -> Shoot:
    """Keeps a picture of the page."""
    folder = Path(os.environ.get("NANOCHAT_PL_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str) -> None:
        page.screenshot(path=folder / f"{name}-{size}.png", animations="disabled")

    return keep


def send(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answers(page: Page) -> Locator:
    return page.get_by_test_id("bot")


def always_the_likeliest(page: Page, max_tokens: int = 256) -> None:
    """Set the temperature to 0."""
    settings = page.get_by_role("button", name="Settings")
    settings.click()
    for label, value in (("Temperature", 0), ("Max tokens", max_tokens)):
        field = page.get_by_label(f"number input for {label}")
        field.fill(str(value))
        field.blur()
    settings.click()


def choose_model(page: Page, name: str) -> None:
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name=name).click()


def start_anew(page: Page) -> None:
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)


def wait_for_the_end(page: Page, turns: int) -> None:
    """Until the last of so many turns is a whole answer."""
    expect(page.locator(".turn")).to_have_count(turns)
    expect(page.get_by_role("button", name="Undo")).to_be_visible()


def ask_for_the_alphabet(page: Page) -> Locator:
    """An answer of thousands of tokens, under way."""
    choose_model(page, "abc/base")
    always_the_likeliest(page, max_tokens=2048)
    send(page, "abc")
    expect(answers(page)).to_contain_text(alphabet("c", 40))
    return answers(page)


def test_a_conversation(page: Page, shoot: Shoot) -> None:
    shoot("welcome")
    always_the_likeliest(page)
    page.get_by_role("button", name="What is 123 plus 45?").click()
    expect(answers(page)).to_contain_text("It is 168.")
    tool = page.locator("details.tool")
    expect(tool.locator("summary")).to_have_text("Calculated 123+45 → 168")
    expect(tool.locator("pre").first).to_be_hidden()
    expect(page.locator(".status")).to_have_text(re.compile(r"^\d+ tokens · [\d,]+ tok/s$"))
    tool.locator("summary").click()
    expect(tool.locator("pre")).to_have_text(["123+45", "168"])
    shoot("tool")

    send(page, "Make a list")
    wait_for_the_end(page, turns=4)
    expect(tool.locator("pre").first).to_be_visible()  # what is unfolded stays so while another answer comes
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.get_by_label("Message", exact=True)).to_have_value("Make a list")

    start_anew(page)
    expect(page.locator(".welcome")).to_be_visible()


@any_size
def test_an_answer_streams(page: Page) -> None:
    page.evaluate(
        """() => {
            window.lengths = new Set();
            const log = document.querySelector(".log");
            const note = () => lengths.add(log.querySelector("[data-testid=bot]")?.textContent.length);
            new MutationObserver(note).observe(log, {childList: true, subtree: true, characterData: true});
        }"""
    )
    answer = ask_for_the_alphabet(page)
    expect(page.locator(".status")).to_contain_text("maximum length", timeout=PATIENCE_SECONDS * 1000)
    expect(answer).to_have_text(alphabet("c", 2048))
    assert page.evaluate("lengths.size") > 5


def test_stop_frees_the_row_and_keeps_what_was_said(page: Page, server: Server, shoot: Shoot) -> None:
    answer = ask_for_the_alphabet(page)
    shoot("streaming")
    send(page, "xyz")  # too early: it stays in the input
    page.get_by_test_id("stop-button").click()
    expect(page.locator(".status")).to_contain_text("stopped")
    said = answer.inner_text()
    assert 40 <= len(said) < 2048 and said == alphabet("c", len(said))
    server.wait(lambda: server.health()["running"] == 0)
    expect(page.get_by_test_id("submit-button")).to_be_visible()
    shoot("stopped")

    expect(page.locator(".turn")).to_have_count(2)
    expect(page.get_by_label("Message", exact=True)).to_have_value("xyz")
    send(page, "xyz")  # and the next question is answered
    expect(answers(page).last).to_contain_text(alphabet("z", 40))
    start_anew(page)  # which stops it, too
    server.wait(lambda: server.health()["running"] == 0)


@any_size
def test_a_closed_page_frees_the_row(page: Page, server: Server, browser: Browser) -> None:
    other = page.context.new_page()
    other.goto(server.url)
    ask_for_the_alphabet(other)
    assert server.health()["running"] == 1
    other.close()
    server.wait(lambda: server.health()["running"] == 0)


def test_retry_and_edit(page: Page, shoot: Shoot) -> None:
    always_the_likeliest(page)
    send(page, "Hello")
    wait_for_the_end(page, turns=2)
    answers(page).locator(".text").evaluate("node => node.classList.add('old')")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".old")).to_have_count(0)
    wait_for_the_end(page, turns=2)
    expect(answers(page)).to_have_text(ANSWERS["Hello"])
    send(page, "Hello")
    wait_for_the_end(page, turns=4)

    first = page.locator(".turn.user").first
    first.hover()
    first.get_by_role("button", name="Edit").click()
    field = page.get_by_label("Edit your message")
    expect(field).to_have_value("Hello")
    field.press("Escape")
    expect(page.locator(".turn")).to_have_count(4)
    first.hover()
    first.get_by_role("button", name="Edit").click()
    field.fill("Make a list")
    shoot("edit")
    page.get_by_role("button", name="Send", exact=True).click()
    wait_for_the_end(page, turns=2)
    expect(page.get_by_test_id("user")).to_have_text("Make a list")
    expect(answers(page).locator("li")).to_have_text(["an apple", "a pear"])
    expect(answers(page).locator("pre")).to_have_text("x = 5*3*2")
    assert answers(page).locator("h1, em, strong, li > *, p > code").all_inner_texts() == [
        "Fruit", "apple", "pear", "x",
    ]  # fmt: skip


def test_text_is_never_markup(page: Page, shoot: Shoot) -> None:
    always_the_likeliest(page)
    send(page, MARKUP)
    expect(page.get_by_test_id("user")).to_have_text(MARKUP)
    wait_for_the_end(page, turns=2)
    start_anew(page)
    send(page, "Say something in markup")
    expect(answers(page)).to_have_text(MARKUP)
    assert page.locator(".log :is(img, b, script)").count() == 0
    assert page.evaluate("typeof hacked") == "undefined"
    shoot("markup")


def test_switching_models(page: Page, shoot: Shoot) -> None:
    expect(page.get_by_role("combobox", name="Model")).to_have_value("talk/sft (default) · 0.912 bpb")
    page.get_by_role("combobox", name="Model").click()
    shoot("models")
    expect(page.get_by_role("option")).to_have_count(2)
    page.get_by_role("option", name="abc/base").click()
    expect(page.locator("#note")).to_contain_text("abc/base is a base model: it continues text")
    expect(page.locator(".welcome")).to_contain_text("it continues what you write")
    always_the_likeliest(page, max_tokens=20)
    send(page, "abc")
    expect(answers(page)).to_have_text(alphabet("c", 20))
    expect(page.locator(".status")).to_contain_text("20 tokens")
    choose_model(page, "talk/sft")
    always_the_likeliest(page)
    send(page, "Hello")
    expect(page.locator(".turn .name")).to_have_text(["abc/base", "talk/sft"])
    expect(answers(page).last).not_to_be_empty()


@any_size
def test_a_new_model_is_found(page: Page, server: Server, runs: Path) -> None:
    def later_is_listed() -> bool:
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Look for models again").click()
        page.get_by_role("combobox", name="Model").click()
        return page.get_by_role("option", name="later/base").count() > 0

    shutil.copytree(runs / "abc", runs / "later")
    try:
        server.wait(later_is_listed)
        page.get_by_role("option", name="later/base").click()
        expect(page.get_by_text("later/base is a base model").last).to_be_visible()
    finally:
        shutil.rmtree(runs / "later")
    send(page, "Hello")
    expect(page.get_by_role("alert").last).to_contain_text("later/base")


@any_size
def test_what_is_asked_right_after_a_choice_of_the_model_stays(page: Page, server: Server) -> None:
    page.evaluate("""() => {
        const now = window.fetch;
        let first = true;
        window.fetch = async (...request) => {
            if (first && String(request[0]).includes("queue/join")) {
                first = false;
                await new Promise((resolve) => setTimeout(resolve, 2000));
                window.late = true;
            }
            return now(...request);
        };
    }""")
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name="talk/sft").click()
    send(page, "Hello")
    expect(answers(page).last).not_to_be_empty()
    page.wait_for_function("window.late")
    expect(page.locator("#note")).to_contain_text("talk/sft")
    expect(answers(page)).to_have_count(1)


def test_without_a_model_it_says_how_to_train_one(page: Page, server: Server, runs: Path, shoot: Shoot) -> None:
    def is_said() -> bool:
        page.get_by_role("button", name="Look for models again").click()
        return "python train.py" in page.locator(".welcome").inner_text()

    away = runs.with_name("away")
    away.mkdir()
    try:
        for name in ("abc", "talk"):
            (runs / name).rename(away / name)
        server.wait(is_said)
        shoot("no-model")
        send(page, "Hello")
        expect(page.get_by_role("alert")).to_contain_text("Train one")
    finally:
        for name in ("abc", "talk"):
            (away / name).rename(runs / name)
        away.rmdir()


def test_a_page_survives_a_restart_of_the_server(browser: Browser, runs: Path) -> None:
    server = Server(runs, "workers=1")
    try:
        page = browser.new_page()
        page.goto(server.url)
        choose_model(page, "abc/base")
        always_the_likeliest(page, max_tokens=20)
        assert server.end() == 143
        server.kill()
        server = Server(runs, "workers=1", f"port={urlsplit(server.url).port}")
        send(page, "abc")
        expect(answers(page)).to_have_text(alphabet("c", 20))
        page.close()
        assert server.http.post("/gradio_api/upload", files={"files": b"anything"}).status_code == 404
    finally:
        server.kill()


def test_a_long_conversation(page: Page, shoot: Shoot) -> None:
    """The oldest turns are left out, and what does not fit at all is refused in words."""
    always_the_likeliest(page, max_tokens=20)
    for turn in range(3):
        send(page, f"{turn}" * 100)
        wait_for_the_end(page, turns=2 * turn + 2)
    expect(page.locator(".notice").last).to_contain_text("the oldest 2 messages were left out")
    send(page, "x" * 300)
    expect(page.get_by_role("alert").last).to_contain_text("Shorten it")
    shoot("refused")
    send(page, "Hello")  # the question without an answer is not part of the conversation
    expect(answers(page).last).not_to_be_empty()
    send(page, "   ")
    expect(page.locator(".turn")).to_have_count(10)


def test_settings(page: Page, shoot: Shoot) -> None:
    choose_model(page, "abc/base")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("number input for Temperature").fill("2")
    page.get_by_label("number input for Top-k").fill("0")
    page.get_by_label("number input for Max tokens").fill("40")
    page.get_by_label("Seed").fill("seven")
    shoot("settings")
    send(page, "abc")
    expect(page.get_by_role("alert")).to_contain_text("The seed is 'seven'")
    said = []
    for seed in ("7", "7", "8"):
        page.get_by_label("Seed").fill(seed)
        start_anew(page)
        send(page, "abc")
        expect(page.locator(".status")).to_contain_text("maximum length")
        said.append(answers(page).inner_text())
    assert said[0] == said[1] != said[2]
    assert said[0] != alphabet("c", 40)


def test_light_and_dark(page: Page, browser: Browser, server: Server, size: str, shoot: Shoot) -> None:
    dark = re.compile(r"\bdark\b")
    expect(page.locator("body")).not_to_have_class(dark)
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("body")).to_have_class(dark)
    page.reload()  # the choice is remembered
    expect(page.locator("body")).to_have_class(dark)
    always_the_likeliest(page)
    page.get_by_role("button", name="What is 123 plus 45?").click()
    expect(answers(page)).to_contain_text("It is 168.")
    shoot("dark")
    context = browser.new_context(**SIZES[size], color_scheme="dark")
    follower = context.new_page()
    follower.goto(server.url)  # without a choice, the system's
    expect(follower.locator("body")).to_have_class(dark)
    context.close()
