"""Our tokenizers as Hugging Face's tokenizer.json, with the same ids."""

import itertools
import json
import re
from typing import TYPE_CHECKING, Any

from nanochat_pl.core.errors import UserError
from nanochat_pl.tokenizers.base import BOS, SPECIAL_TOKENS, Tokenizer
from nanochat_pl.tokenizers.bpe import BPETokenizer
from nanochat_pl.tokenizers.byte import ByteTokenizer, byte_characters
from nanochat_pl.tokenizers.char import CharTokenizer
from nanochat_pl.tokenizers.hf import HFTokenizer
from nanochat_pl.tokenizers.samples import SAMPLES

if TYPE_CHECKING:
    import tokenizers

ESCAPE = "\ufdd0"
"""A code point that Unicode keeps free for a program's own use; the chat template puts it behind every < of a text.

Special tokens are looked for first, then the normaliser takes it away: `<|bos|>` in a text is neither read as a special
token nor changed. It costs that a bare text with exactly these two characters in a row loses the second one.
"""


def build_hf_tokenizer(tokenizer: Tokenizer, is_chat: bool) -> "tokenizers.Tokenizer":
    """The same tokenizer for the `tokenizers` library.

    Its ids are those of `tokenizer.encode`, with BOS before them where special tokens are asked for (the default).
    Names of special tokens in a text are read as special tokens, as is usual there, unless `encode_special_tokens` is
    set.

    Args:
        is_chat: whether the chat template's escape has to be taken out of texts.

    Raises:
        UserError: it cannot be expressed, or the library is missing.
    """
    try:
        from tokenizers import AddedToken, normalizers, processors
    except ImportError as error:
        raise UserError(
            "Exporting to Hugging Face needs the library tokenizers. Install it with: pip install 'nanochat-pl[hf]'"
        ) from error
    built = _build(tokenizer)
    built.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    if is_chat:
        unescape = normalizers.Replace(f"<{ESCAPE}", "<")
        own = built.normalizer
        built.normalizer = unescape if own is None else normalizers.Sequence([unescape, own])
    built.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.bos_id)]
    )
    _check_same(tokenizer, built)
    return built


def _build(tokenizer: Tokenizer) -> "tokenizers.Tokenizer":
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Built

    if isinstance(tokenizer, HFTokenizer):
        return Built.from_str(_with_our_bos(tokenizer))
    if isinstance(tokenizer, CharTokenizer):
        vocabulary = {character: i for i, character in enumerate(tokenizer.characters)}
        built = Built(models.WordLevel(vocabulary, unk_token=""))  # there is none: an unknown character is an error
        built.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        built.decoder = decoders.Fuse()
        return built
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if isinstance(tokenizer, ByteTokenizer):
        vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
        built = Built(models.BPE(vocabulary, []))
        built.pre_tokenizer = byte_level
    elif isinstance(tokenizer, BPETokenizer):
        built = Built(_bpe(tokenizer.ranks))
        built.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(_regex(tokenizer.pattern), "isolated"), byte_level]
        )
    else:
        raise UserError(f"A tokenizer of kind {tokenizer.kind!r} cannot be exported; known kinds: bpe, byte, char, hf.")
    built.decoder = decoders.ByteLevel()
    return built


def _with_our_bos(tokenizer: HFTokenizer) -> str:
    """A foreign definition, in which the token that begins a document has our name; all ids stay as they are.

    Not of a unigram model, whose special tokens are pieces of text as well.
    """
    definition = json.loads(tokenizer.definition)
    model = definition["model"]

    def named(token: str) -> str:
        return BOS if token == tokenizer.bos else token

    for token in definition["added_tokens"]:
        token["content"] = named(token["content"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {named(token): i for token, i in model["vocab"].items()}
    return json.dumps(definition | {"post_processor": None, "truncation": None, "padding": None})


def _bpe(ranks: dict[bytes, int]) -> "tokenizers.models.BPE":
    """tiktoken's ranks as a vocabulary and merges.

    tiktoken joins the neighbours that make the token of the lowest rank, whichever they are; here each merge names its
    two. One merge a token is enough: where two neighbours make a token, nothing was joined across their outer edges, so
    they are the two that the token's own bytes end with when they are joined by the same rule. And as tiktoken does,
    `ignore_merges` takes a whole piece that is a token as it is.
    """
    from tokenizers import models

    character = byte_characters()

    def spelled(token: bytes) -> str:
        return "".join([character[byte] for byte in token])

    pairs = (last_pair(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1)
    merges = [(spelled(pair[0]), spelled(pair[1])) for pair in pairs if pair is not None]
    return models.BPE({spelled(token): rank for token, rank in ranks.items()}, merges, ignore_merges=True)


def last_pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that are joined last when `token` is put together of its bytes; None where they don't get there."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [left + right for left, right in itertools.pairwise(parts)]
        known = [i for i, pair in enumerate(joined) if pair in ranks]
        if not known:
            return None
        best = min(known, key=lambda i: ranks[joined[i]])
        parts[best : best + 2] = [joined[best]]
    return parts[0], parts[1]


def _regex(pattern: str) -> "tokenizers.Regex":
    """tiktoken's pattern for this library's engine, which reads `$` and a possessive count in another way."""
    from tokenizers import Regex

    try:
        return Regex(re.sub(r"(\{\d+,\d*\})\+", r"\1", pattern).replace("$", r"\z"))
    except Exception as error:  # the engine raises no class of its own
        raise UserError(f"The tokenizer's split pattern cannot be exported: {error}. It is {pattern}") from error


def _check_same(tokenizer: Tokenizer, built: Any) -> None:
    """See on all that the vocabulary spells, and on texts of many kinds, that both give the same ids.

    Raises:
        UserError: they don't.
    """
    texts = [tokenizer.decode(list(range(tokenizer.n_ordinary)))]
    if not isinstance(tokenizer, CharTokenizer):
        texts += [*SAMPLES.values(), "".join(SPECIAL_TOKENS)]
    built.encode_special_tokens = True
    same = all(built.encode(text, add_special_tokens=False).ids == tokenizer.encode(text) for text in texts)
    built.encode_special_tokens = False
    names = {name: built.token_to_id(name) for name in SPECIAL_TOKENS}
    if not same or names != tokenizer.special_tokens:
        pattern = f" Its split pattern is {tokenizer.pattern}" if isinstance(tokenizer, BPETokenizer) else ""
        raise UserError(
            "This tokenizer cannot be exported: the library tokenizers gives other ids for the same text." + pattern
        )
