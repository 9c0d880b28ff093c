"""doctor data: whether what a training reads is there, whole, and what its model was trained with."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.figures import size
from nanochat_pl.core.paths import cache_root, data_root
from nanochat_pl.core.run_folder import RunFolder, as_object, read_object
from nanochat_pl.data.at_hand import files_at_hand
from nanochat_pl.data.hub.specs import HubDataSpec
from nanochat_pl.data.sources import DocumentSource, read_documents
from nanochat_pl.data.specs import DataSpec, ShakespeareDataSpec, TextDataSpec, TinyDataSpec
from nanochat_pl.data.tokens.specs import TokenDataSpec
from nanochat_pl.data.verify import MAX_SHARE, Verification
from nanochat_pl.diagnosis.diagnosis import Diagnosis, examining
from nanochat_pl.reporting.records import as_number
from nanochat_pl.tokenizers.load import load_tokenizer

QUICK_BYTES = 10**9
"""More is not read to its end unless `doctor data` is asked for."""
LITTLE_FREE_BYTES = 2 * 10**9
CROPPED = 0.5
SAMPLE_DOCUMENTS = 8
SAMPLE = "One sunny morning, Alice said: 7 + 5 = 12! Äß 漢"


def diagnose_run(run: RunFolder, spec: Callable[[], DataSpec], thorough: bool = True) -> Diagnosis:
    """Of a run: its data, its tokenizer, and what it has read of them.

    Args:
        spec: its data, which may be named wrongly in a damaged config.yaml.
        thorough: large files too are read to their ends.
    """
    diagnosis = Diagnosis("data", str(run.path))
    with examining(diagnosis, "config.yaml"):
        if run.config.exists():
            _data(diagnosis, spec(), thorough)
        else:
            diagnosis.info("There is no config.yaml yet.")
    with examining(diagnosis, "The model's tokenizer"):
        _tokenizer(diagnosis, run)
    with examining(diagnosis, "summary.json"):
        _read_so_far(diagnosis, as_object(run.read_summary().get("data")))
    return diagnosis


def diagnose(data: DataSpec, subject: str, thorough: bool = True) -> Diagnosis:
    """Of a command that is yet to train."""
    diagnosis = Diagnosis("data", subject)
    _data(diagnosis, data, thorough)
    return diagnosis


def _data(diagnosis: Diagnosis, data: DataSpec, thorough: bool) -> None:
    with examining(diagnosis, "The data"):
        if isinstance(data, TinyDataSpec):
            diagnosis.good("The data are the tiny world, which the package makes up itself: no files, no download.")
        elif isinstance(data, HubDataSpec | TextDataSpec | ShakespeareDataSpec):
            _files(diagnosis, data, thorough)
        if not isinstance(data, HubDataSpec):  # whose reading would fetch
            _documents(diagnosis, data, thorough)
    with examining(diagnosis, "The cache"):
        _space(diagnosis, data)


def _files(diagnosis: Diagnosis, data: DataSpec, thorough: bool) -> None:
    """Files of text, each read to its end."""
    at_hand = files_at_hand(data)
    total = sum(file.path.stat().st_size for file in at_hand.files if file.path.exists())
    diagnosis.info(f"{len(at_hand.files):,} of {at_hand.num_files:,} file(s) are on this machine, {size(total)}.")
    for name, reason in at_hand.left_out.items():
        diagnosis.warn(
            f"{name} is left out of training: {reason}", "python -m nanochat_pl data verify FILE shows more."
        )
    if total > QUICK_BYTES and not thorough:
        diagnosis.info("They are not read here, as they are large.", "python -m nanochat_pl doctor data reads them.")
        return
    verification = Verification(at_hand.text_key, num_samples=0)
    for file in at_hand.files:
        report = verification.check(file)
        for fault in report.faults:
            diagnosis.wrong(
                f"{file.name}: {fault}.",
                "Restore the file or leave it out; python -m nanochat_pl data verify FILE says more. Files of the hub "
                "are fetched anew when they are removed.",
            )
    reports = verification.reports
    documents = sum(report.documents for report in reports)
    odd = sum(report.null + report.empty + report.duplicates + report.duplicates_elsewhere for report in reports)
    if not any(report.faults for report in reports):
        share = f"; {odd / documents:.1%} of them empty or copies" if odd > 0.001 * documents else ""
        enough = "" if odd <= MAX_SHARE * documents else " (many)"
        diagnosis.good(f"All were read to their ends: {documents:,} documents, no faults{share}{enough}.")


def _documents(diagnosis: Diagnosis, data: DataSpec, thorough: bool) -> None:
    """As training reads them: the first of both sides; tokens, which carry checksums, to their end."""
    sources = data.build_sources()
    try:
        for name, source in zip(("to train on", "held out"), sources):
            everything = isinstance(data, TokenDataSpec) and thorough
            count = _count(source, None if everything else SAMPLE_DOCUMENTS)
            if not count:
                diagnosis.wrong(f"There are no documents {name}.", source.nothing_held_out if name == "held out" else
                                "Give more text.")  # fmt: skip
            elif everything:
                diagnosis.good(f"All {count:,} documents {name} have the right checksums.")
            else:
                diagnosis.good(f"Documents {name} can be read ({source.num_shards:,} shard(s)).")
    finally:
        for source in sources:
            source.close()
    if isinstance(data, TokenDataSpec):
        tokenizer = data.own_tokenizer()
        diagnosis.good(f"The tokens were made by {tokenizer.kind}, {tokenizer.vocab_size:,} tokens.")


def _count(source: DocumentSource, most: int | None) -> int:
    return sum(1 for _ in itertools.islice(read_documents(source), most))


def _space(diagnosis: Diagnosis, data: DataSpec) -> None:
    """Room for what is fetched."""
    is_fetched = isinstance(data, HubDataSpec) and not data.path and data.mode == "cache"
    folder = data_root() if is_fetched else cache_root()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free, kept = shutil.disk_usage(there).free, _bytes_in(folder)
    said = f"The cache {folder} holds {size(kept)}; its disk has {size(free)} free"
    if free < LITTLE_FREE_BYTES:
        diagnosis.warn(
            f"{said}.",
            "Free some space, or point NANOCHAT_PL_CACHE (DATA_ROOT for data alone) to another disk.",
        )
    elif is_fetched and isinstance(data, HubDataSpec) and kept + free < data.cache_gigabytes * 1e9:
        diagnosis.info(
            f"{said}, less than the {data.cache_gigabytes:g} GB that data.cache_gigabytes allows: older files will go."
        )
    else:
        diagnosis.good(f"{said}.")


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        try:
            total += path.lstat().st_size
        except OSError:  # gone meanwhile
            continue
    return total


def _tokenizer(diagnosis: Diagnosis, run: RunFolder) -> None:
    """The one beside the model: it can be read, says back what it was told, and is the one that was planned with."""
    folder = run.model / "tokenizer"
    if not folder.exists():
        diagnosis.info("There is no tokenizer beside a model yet.")
        return
    tokenizer = load_tokenizer(folder)
    planned = as_object(read_object(run.resolved).get("model")).get("vocab_size")
    if planned is not None and planned != tokenizer.vocab_size:
        raise UserError(
            f"it has {tokenizer.vocab_size:,} tokens, but the run was planned with {planned:,}: the folder is of "
            "another run. Train anew with run.fresh=true, or restore it."
        )
    said = tokenizer.decode(tokenizer.encode(SAMPLE))
    if tokenizer.kind not in ("char", "hf") and said != SAMPLE:
        raise UserError(f"it makes {said!r} of {SAMPLE!r}: it is damaged. Restore it from the cache or another run.")
    diagnosis.good(f"The model's tokenizer is sound: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens.")


def _read_so_far(diagnosis: Diagnosis, counters: dict[str, object]) -> None:
    numbers = {name: number for name, value in counters.items() if (number := as_number(value)) is not None}
    if not numbers:
        return
    tokens, cropped = numbers.get("tokens", 0), numbers.get("cropped_tokens", 0)
    diagnosis.info("The run has read: " + ", ".join(f"{name} {number:,}" for name, number in numbers.items()) + ".")
    if tokens and cropped > CROPPED * (tokens + cropped):
        diagnosis.warn(
            f"{cropped / (tokens + cropped):.0%} of the tokens were cut off: the documents are longer than the rows.",
            "Take a longer model.sequence_len, or data.packing=windows for long texts.",
        )
