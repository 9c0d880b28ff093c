"""The chat page: Gradio's inputs and streaming around a conversation drawn by assets/conversation.js.

Gradio's own chatbot takes messages for Markdown with HTML in it. Here what people write is shown as they wrote it, and
nothing that a model writes can become markup or make the browser ask for anything.
"""

import copy
import html
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by gradio when it is imported

import gradio as gr
from fastapi import FastAPI, HTTPException

from nanochat_pl.demo.job import AnswerRequest
from nanochat_pl.demo.models import ModelInfo
from nanochat_pl.demo.page_answer import Answers, Chat, messages_of, new_answer, seed_of
from nanochat_pl.demo.page_text import choice_label, note, placeholder, welcome
from nanochat_pl.demo.service import Service
from nanochat_pl.inference.sampling import Sampling

ASSETS = Path(__file__).parent / "assets"
# The browser itself refuses what would leave this server.
HEAD = """
<meta http-equiv="Content-Security-Policy" content="default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:">
"""
ON_LOAD = """() => {
    const chosen = localStorage.getItem("theme");
    if (chosen) document.body.classList.toggle("dark", chosen === "dark");
    for (const button of document.querySelectorAll("#top button")) button.title = button.textContent.trim();
    document.querySelector("#more").ariaExpanded = false;
}"""
WELCOME = "(chat, welcome) => ({ ...chat, welcome })"
OTHER_THEME = """() => {
    const dark = document.body.classList.toggle("dark");
    localStorage.setItem("theme", dark ? "dark" : "light");
}"""
OPEN_OR_CLOSE_SETTINGS = """() => {
    const open = document.querySelector("#settings").classList.toggle("open");
    document.querySelector("#more").ariaExpanded = open;
}"""


def mount_page(app: FastAPI, service: Service) -> FastAPI:
    """Mount the page at /; to be called after the app's other routes are there."""

    @app.post("/gradio_api/upload")
    async def refuse_upload() -> None:
        # Gradio would keep whatever it is sent.
        raise HTTPException(404, "The page takes no files.")

    page = build_page(service)
    page._queue.sleep_when_free = 0.02  # seconds; Gradio's 0.001 takes a tenth of a core from the models
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=gr.themes.Default(
            primary_hue="teal",
            neutral_hue="stone",
            font=("system-ui", "sans-serif"),
            font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "monospace"),
        ),
        css_paths=[ASSETS / "page.css", ASSETS / "conversation.css"],
        head=HEAD,
        favicon_path=str(ASSETS / "favicon.svg"),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
    )


def build_page(service: Service) -> gr.Blocks:
    """The page over what `service` serves."""
    return _Page(service).blocks


class _Page:
    """The parts of the page, and what happens when they are used."""

    def __init__(self, service: Service):
        self._service = service
        self._answers = Answers(service)
        with gr.Blocks(title="nanochat-pl", fill_height=True, fill_width=True, analytics_enabled=False) as self.blocks:
            self._lay_out()
            self._connect()

    def _lay_out(self) -> None:
        with gr.Row(elem_id="top"):
            gr.HTML("<h1>nanochat<span>-pl</span></h1>", elem_id="brand")
            self.model = gr.Dropdown(
                label="Model", show_label=False, container=False, elem_id="model", filterable=False
            )
            self.look_again = gr.Button("Look for models again", elem_id="look-again")
            self.new_chat = gr.Button("New chat", elem_id="new-chat")
            self.theme = gr.Button("Light or dark", elem_id="theme")
        self.chat = gr.HTML(
            {"turns": [], "welcome": {"title": "", "text": ""}},
            html_template='<div class="log" role="log" aria-label="Conversation" tabindex="0"></div>',
            js_on_load="".join((ASSETS / name).read_text("utf-8") for name in ("markdown.js", "conversation.js")),
            apply_default_css=False,
            elem_id="conversation",
        )
        self.welcome = gr.JSON(visible=False)
        self.box = gr.Textbox(
            "", label="Message", show_label=False, submit_btn=True, max_lines=8, autofocus=True, elem_id="message"
        )
        self.note = gr.HTML(elem_id="note")
        # Not an accordion: Gradio makes its contents when it opens, and then drops what is typed in the first moment.
        self.more = gr.Button("Settings", elem_id="more")
        with gr.Column(elem_id="settings"):
            self.system = gr.Textbox("", label="System message", placeholder="How it should answer", lines=2)
            with gr.Row():
                self.temperature = gr.Slider(0, 2, 0.8, step=0.05, label="Temperature")
                self.top_k = gr.Slider(0, 200, 50, step=1, label="Top-k (0: all)")
                self.top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p (1: all)")
                self.max_tokens = gr.Slider(1, 2048, 256, step=1, label="Max tokens")
                self.seed = gr.Textbox("", label="Seed", placeholder="random")

    def _connect(self) -> None:
        # As the browser sends it: else Gradio refuses, without a word, a model that it has not offered to this page or
        # that has gone since. Here the answer says so.
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
        sampling = [self.temperature, self.top_k, self.top_p, self.max_tokens, self.seed]
        described = [self.welcome, self.box, self.note]
        gr.on(
            [self.box.submit, self.chat.submit],
            self.ask,
            [self.chat, self.box, self.model, self.system, *sampling],
            [self.chat, self.box],
            trigger_mode="multiple",  # else what is sent in the moment after an answer's last word is ignored
            concurrency_limit=None,
            **quiet,
        )
        self.box.stop(self.stop, None, None, concurrency_limit=None, queue=False, **quiet)
        self.chat.undo(self.undo, [self.chat, self.model], [self.chat, self.box], **quiet)
        self.new_chat.click(self.clear, self.model, self.chat, concurrency_limit=None, **quiet)
        for described_anew in (
            self.model.input(self.describe, self.model, described, **quiet),
            self.look_again.click(self.look, self.model, [self.model, *described], **quiet),
            self.blocks.load(self.look, self.model, [self.model, *described], **quiet),
        ):  # in the browser, where nothing that was said meanwhile is lost
            described_anew.then(None, [self.chat, self.welcome], self.chat, js=WELCOME, **quiet)
        self.blocks.load(None, js=ON_LOAD)
        self.theme.click(None, js=OTHER_THEME)
        self.more.click(None, js=OPEN_OR_CLOSE_SETTINGS)

    async def ask(
        self, chat: Chat, typed: str, model: str | None, system: str, temperature: float, top_k: int,
        top_p: float, max_tokens: int, seed: str, event: gr.EventData, request: gr.Request,
    ) -> AsyncGenerator[Any, None]:  # fmt: skip
        """Answer what was typed, or, where the conversation asked, `text` after its first `keep` turns."""
        by_chat = isinstance(event._data, dict)
        info = await self._find(model)  # before it is asked whether it is too early: nothing may come between
        keep, text = (event.keep, event.text) if by_chat else (len(chat["turns"]), typed)
        session = str(request.session_hash)
        if not text.strip() or self._answers.is_too_early(session, chat["turns"]):
            yield gr.skip(), gr.skip()
            return
        turns = [*chat["turns"][:keep], {"role": "user", "text": text}]
        answer = new_answer(info)

        def build_request() -> AnswerRequest:
            sampling = Sampling(
                max_new_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k or None,
                top_p=top_p,
                seed=seed_of(seed),
            )
            return AnswerRequest(model=model, messages=messages_of(turns, system), sampling=sampling)

        box: Any = gr.update(submit_btn=False, stop_btn=True) | ({} if by_chat else {"value": ""})
        async for instead in self._answers.write(session, build_request, answer):
            shown = instead or {**chat, "turns": [*turns, copy.deepcopy(answer)]}
            yield shown, box if answer["running"] else gr.Textbox(submit_btn=True, stop_btn=False)
            box = gr.skip()

    async def stop(self, request: gr.Request) -> None:
        """End the answer that is being written."""
        await self._answers.stop(str(request.session_hash))

    async def clear(self, model: str | None, request: gr.Request) -> Any:
        """Begin a new conversation."""
        empty = {"turns": [], "welcome": welcome(await self._find(model))}
        was_running = await self._answers.stop(str(request.session_hash), instead=empty)
        return gr.skip() if was_running else empty

    async def undo(self, chat: Chat, model: str | None) -> tuple[Chat, Any]:
        """Take back the last question with its answer; the question returns to the input."""
        *turns, question, _ = chat["turns"]
        return {"turns": turns, "welcome": welcome(await self._find(model))}, question["text"]

    async def look(self, selected: str | None) -> tuple[Any, ...]:
        """Look for models; what was chosen stays chosen if it is still there."""
        models = await self._service.models()
        default = await self._service.default_model()
        names = [model.name for model in models]
        selected = selected if selected in names else default
        choices = [(choice_label(model, model.name == default), model.name) for model in models]
        return gr.Dropdown(choices=choices, value=selected), *await self.describe(selected)

    async def describe(self, selected: str | None) -> tuple[Any, ...]:
        """What the page says about the chosen model: in the empty conversation, in the input, and under it."""
        info = await self._find(selected)
        return welcome(info), gr.Textbox(placeholder=placeholder(info)), html.escape(note(info))

    async def _find(self, name: str | None) -> ModelInfo | None:
        return next((model for model in await self._service.models() if model.name == name), None)
