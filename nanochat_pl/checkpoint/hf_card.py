"""The README.md of an exported folder."""

import nanochat_pl
from nanochat_pl.checkpoint.model_folder import LoadedModel

STAGES = {
    "base": "pretraining: it continues text and has not learned the form of a conversation",
    "mid": "midtraining on conversations",
    "sft": "supervised finetuning on conversations",
    "rl": "reinforcement learning on conversations",
}


def model_card(loaded: LoadedModel, source: str, format_name: str, has_modeling_file: bool) -> str:
    """How the model was made, what it is, how to use it, and where the export differs from the original."""
    config, facts = loaded.model.config, loaded.facts
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    rows = {
        "last stage": STAGES.get(loaded.stage, loaded.stage),
        "parameters": f"{parameters:,}",
        "layers, width, heads, key heads": f"{config.n_layer}, {config.n_embd}, {config.n_head}, {config.n_kv_head}",
        "trained context": f"{config.sequence_len:,} tokens",
        "vocabulary": f"{config.vocab_size:,} tokens ({loaded.tokenizer.kind})",
        "weights": config.compute_dtype,
        "format": format_name,
    }
    for name, title in (("step", "training steps"), ("tokens", "training tokens")):
        if name in facts:
            rows[title] = f"{facts[name]:,.0f}"
    if "val_bpb" in facts:
        rows["validation bits per byte"] = f"{facts['val_bpb']:.4f}"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    trust = ", trust_remote_code=True" if has_modeling_file else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [nanochat, nanochat-pl]
---

# {source}

Trained by nanochat-pl {nanochat_pl.__version__}, and written by
`python -m nanochat_pl checkpoints export {source} --to hf`.

| | |
|---|---|
{table}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
model = AutoModelForCausalLM.from_pretrained(folder{trust})
{_usage(loaded.is_chat)}
```

{_notes(loaded.is_chat, has_modeling_file)}"""


def _usage(is_chat: bool) -> str:
    if is_chat:
        return """\
messages = [{"role": "user", "content": "Hello!"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=200)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""
    return """\
inputs = tokenizer("Once upon a time", return_tensors="pt")  # begins with <|bos|>, as every text in training did
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0], skip_special_tokens=True))"""


def _notes(is_chat: bool, has_modeling_file: bool) -> str:
    notes = [
        "`tokenizer(text)` puts `<|bos|>` before the text; `add_special_tokens=False` leaves it out. Names of special "
        "tokens in a text are read as special tokens, unless `split_special_tokens=True` says otherwise."
    ]
    if is_chat:
        notes.append(
            "The chat template keeps such names in messages as text: it marks every `<` with the code point U+FDD0, "
            "which the tokenizer takes away again. A bare text that has `<` and U+FDD0 in a row loses the latter."
        )
        notes.append(
            "The model may call a tool: what stands between `<|python_start|>` and `<|python_end|>` is a Python "
            "expression, and its value is to follow between `<|output_start|>` and `<|output_end|>`. Nothing here runs "
            "it."
        )
    if has_modeling_file:
        notes.append(
            "The modeling file needs a dynamic cache, transformers' default. Where the model has smear, the tokens' "
            "embeddings are cached beside keys and values: engines that keep only those cannot run it."
        )
    else:
        notes.append(
            "transformers' attention sees the whole text, this model no further than its trained context: beyond that "
            "length they differ."
        )
    return "\n".join(f"- {note}" for note in notes) + "\n"
