"""Models from the Hugging Face hub: weights, configs and tokenizer files, never code and never pickles.

All of the hub's variables (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, ...) are the library's own to honour.
"""

import re
from pathlib import Path

from aquatint.base.errors import UserError
from aquatint.weights import diffusers
from aquatint.weights.formats import STEMS, TOKENIZERS

FOLDERS = diffusers.FOLDERS | {"text2": diffusers.SECOND}
PREFIX = "hub:"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
NUMBER = "[0-9][0-9][0-9][0-9][0-9]"
DOCUMENTS = (
    "model_index.json",
    "manifest.json",
    "vocabulary.json",
    "scheduler/scheduler_config.json",
    *(f"{folder}/config.json" for folder in FOLDERS.values()),
    *(
        f"{folder}/{name}"
        for folder in TOKENIZERS
        for name in (
            "vocab.json",
            "merges.txt",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
        )
    ),
)


def is_name(source: str) -> bool:
    """Whether this is spelled as a repository on the hub: "owner/name", perhaps behind "hub:"."""
    name = source.removeprefix(PREFIX)
    # A name that ends like a file of weights is a path that somebody mistyped.
    file = name.endswith((".safetensors", ".ckpt", ".pt", ".pth", ".bin"))
    return NAME.fullmatch(name) is not None and ".." not in name and "--" not in name and not file


def weights(stem: str, folder: str, variant: str | None) -> list[str]:
    """Patterns for one net's weights of one variant (None: the plain ones), whole or in shards of both spellings."""
    middle = f".{variant}" if variant else ""
    shards = [f"{stem}{middle}-{NUMBER}-of-{NUMBER}.safetensors", f"{stem}-{NUMBER}-of-{NUMBER}{middle}.safetensors"]
    names = [f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json", *shards]
    return [f"{folder}/{name}" if folder else name for name in names]


def patterns(variant: str | None) -> list[str]:
    """Everything that is fetched: documents, the tokenizer, and the three nets' weights of one variant."""
    nets = [name for part, folder in FOLDERS.items() for name in weights(STEMS[part], folder, variant)]
    return [*DOCUMENTS, *nets, *weights("model", "", None)]


def fetch(source: str, *, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder of a repository's snapshot in the hub's cache, fetched as far as it is not there yet.

    Where some nets have no weights of the variant, the plain ones are fetched for them, of the same commit.
    """
    name = source.removeprefix(PREFIX)
    folder = _snapshot(name, revision, patterns(variant))
    if variant is not None:
        there = {part: inner for part, inner in FOLDERS.items() if (folder / inner).is_dir()}
        lacking = [part for part, inner in there.items() if not _has_weights(folder / inner, STEMS[part])]
        if lacking and len(lacking) < len(there):
            more = [name for part in lacking for name in weights(STEMS[part], FOLDERS[part], None)]
            _snapshot(name, folder.name, more)
    return folder


def _has_weights(folder: Path, stem: str) -> bool:
    return any(folder.glob(f"{stem}*.safetensors"))


def _snapshot(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError:
        raise UserError(
            f'"{name}" is on the hub, and its owner asks for consent first.',
            "A repository that your account may read.",
            f"Accept its terms at https://huggingface.co/{name}, then set HF_TOKEN.",
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f'"{name}" is neither a file or folder here nor a repository that the hub shows you.',
            "A path, or a name on the hub.",
            "Check the spelling; a private repository needs HF_TOKEN.",
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f'"{name}" has no revision "{revision}".', "A branch, tag or commit of it.") from None
    except errors.LocalEntryNotFoundError:
        raise _unreachable(name) from None
    except errors.HfHubHTTPError as error:
        raise UserError(f'The hub did not give "{name}": {_first_line(error)}.', "", "Try again later.") from None
    except (OSError, errors.HFValidationError) as error:
        reason = _first_line(error)
        raise UserError(f'"{name}" could not be fetched: {reason}.', "", "Check network and disk.") from None
    except Exception as error:
        if "http" in type(error).__module__:  # the library's HTTP client changes with its versions
            raise _unreachable(name) from None
        raise


def _unreachable(name: str) -> UserError:
    return UserError(
        f'"{name}" is neither a file or folder here nor in the hub\'s cache, and the hub cannot be reached.',
        "A path, or a network.",
        "Check the spelling, the network, and HF_HUB_OFFLINE.",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
