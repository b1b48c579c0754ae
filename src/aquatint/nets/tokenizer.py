"""CLIP's tokenizer: byte-level byte-pair encoding of lower-cased text (Sennrich et al. 2016; Radford et al. 2021, 2.4).

A text is brought to Unicode's composed form (NFC), runs of white space become one space, letters become lower case.
It is split into words: contractions, runs of letters, single digits, runs of other signs. A word's UTF-8 bytes are the
first pieces, the last one marked `</w>`, and the merges join neighbours, the earliest merge in the list first.
The list of merges is therefore the whole tokenizer: ids 0..255 are the bytes, 256..511 the bytes that end a word, then
one id a merge in order, then start and end. Whatever else a file says is checked against that.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from jaxtyping import Int
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from aquatint.base import files
from aquatint.base.errors import UserError, unknown
from aquatint.nets.merges import BARE, END, START, WORD_END, Merge, alphabet, filled, learn, packaged_merges, table_of

WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
LENGTH = 77
LARGEST_FILE = 32 * 2**20  # bytes; CLIP's own tokenizer.json has 3.6 million
PADS = ("end", "zero")


class Tokenizer:
    """Texts <-> token ids, from a list of merges.

    pad      what fills a short text up: "end" (CLIP-L: the end token) or "zero" (OpenCLIP-H: id 0)
    length   tokens a text, start and end included

    A "!" in a text is always an exclamation mark. (Where "!" pads, as in Stable Diffusion 2's folders, transformers
    reads it as padding; the model was trained by OpenCLIP, which does not.)
    """

    def __init__(self, merges: Sequence[Merge], *, pad: str = "end", length: int = LENGTH) -> None:
        if pad not in PADS:
            raise unknown("padding", pad, PADS)
        self.merges, self.pad, self.length = tuple(merges), pad, length
        self.table = table_of(self.merges)
        self._engine = _engine(self.table, self.merges)

    @classmethod
    def from_merges(cls, merges: Sequence[Merge], *, pad: str = "end", length: int = LENGTH) -> "Tokenizer":
        """The tokenizer of these merges, in order of rank."""
        return cls(merges, pad=pad, length=length)

    @classmethod
    def packaged(cls, *, pad: str = "end") -> "Tokenizer":
        """CLIP's own 49,408 tokens, which every Stable Diffusion 1.x, 2.x and XL reads; they come with the package."""
        return cls(packaged_merges(), pad=pad)

    @classmethod
    def from_folder(cls, folder: str | Path, *, pad: str | None = None) -> "Tokenizer":
        """Read `tokenizer.json`, or `vocab.json` and `merges.txt`; the padding too, unless `pad` says it.

        Only the merges are taken from the files: how a text is split is CLIP's, as transformers' CLIPTokenizer has it.
        Raises UserError for a file that is missing, too large, truncated, malformed, or not CLIP's kind.
        """
        folder = Path(folder)
        content = _json(folder / "tokenizer.json") if (folder / "tokenizer.json").is_file() else None
        if content is not None:
            merges, table = _from_one_file(content, folder / "tokenizer.json")
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            merges = _from_lines(folder / "merges.txt")
            table = _numbered(_json(folder / "vocab.json"), folder / "vocab.json")
        else:
            raise UserError(
                f"{folder} holds no tokenizer.",
                "A folder with tokenizer.json, or with vocab.json and merges.txt, is one.",
                "Check the path, or leave it out to use CLIP's own tokenizer, which comes with aquatint.",
            )
        _refuse_added_tokens(folder, content, len(table))
        tokenizer = cls(merges, pad=_pad_of(folder) if pad is None else pad)
        if tokenizer.table != table:
            raise UserError(
                f"The tokenizer in {folder} has {len(table)} tokens; they are not what its {len(merges)} merges make.",
                "In CLIP's tokenizer the tokens and their ids follow from the merges.",
                "The files may be truncated, or come from different tokenizers: fetch them again.",
            )
        return tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int, *, pad: str = "end") -> "Tokenizer":
        """Merges for these texts, `vocabulary` tokens in all (514 at least): the most frequent pair first.

        The same texts give the same merges, in whatever order they come; equal counts go by the pieces' spelling.
        Texts that run out of pairs (every word is one token) leave the rest to CLIP's own merges in their order, so
        that a small world still fills its table and everyday words outside it come in few pieces.
        """
        if vocabulary < BARE:
            raise UserError(f"A vocabulary of {vocabulary} tokens is too small.", f"At least {BARE} are needed.")
        words: Counter[str] = Counter()
        split = cls(())
        for text in texts:
            words.update(split.words(text))
        return cls(filled(learn(words, vocabulary - BARE), vocabulary - BARE), pad=pad)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return len(self.table)

    @property
    def start(self) -> int:
        """The id that opens every text."""
        return self.table[START]

    @property
    def end(self) -> int:
        """The id that closes every text; the largest."""
        return self.table[END]

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "b n"]:
        """int64 [b, length]: start, as many of the text's ids as fit, end, padding."""
        assert not isinstance(texts, str), "a sequence of texts, not one text"
        rows = torch.full((len(texts), self.length), self.end if self.pad == "end" else 0, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.start, *self.ids(text)[: self.length - 2], self.end]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def ids(self, text: str) -> list[int]:
        """All ids of the text, without start, end and padding, however many."""
        return list(self._encode(text).ids)

    def pieces(self, text: str) -> list[str]:
        """What each id stands for, one a token; a piece that ends a word ends in a space.

        Joined, they are the text as the encoder reads it. Bytes that are no whole character show as \\xf0.
        """
        return [_readable(piece) for piece in self._encode(text).tokens]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Which characters [start, end) of the text each id stands for."""
        return list(self._encode(text).offsets)

    def words(self, text: str) -> list[str]:
        """The words between which no merge reaches, each spelled in the alphabet of bytes."""
        plain = self._engine.normalizer.normalize_str(_checked(text))
        return [word for word, _ in self._engine.pre_tokenizer.pre_tokenize_str(plain)]

    def contents(self) -> dict[str, str]:
        """The files, by name, from which transformers' CLIPTokenizer (of any age) reads the same tokenizer."""
        marks = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END if self.pad == "end" else "!"}
        about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": self.length, "do_lower_case": True}
        lines = ["#version: 0.2", *(" ".join(merge) for merge in self.merges)]
        return {
            "vocab.json": _written(self.table),
            "merges.txt": "\n".join(lines) + "\n",
            "special_tokens_map.json": _written(marks, indent=2),
            "tokenizer_config.json": _written(about | marks, indent=2),
            "tokenizer.json": self._engine.to_str(pretty=True) + "\n",
        }

    def save(self, folder: str | Path) -> None:
        """Write `contents` into the folder, which is made if it is not there."""
        folder = Path(folder)
        with files.telling(folder, "made"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents().items():
            files.write(folder / name, content)

    def _encode(self, text: str) -> Any:
        return self._engine.encode(_checked(text), add_special_tokens=False)


def _engine(table: dict[str, int], merges: Sequence[Merge]) -> tokenizers.Tokenizer:
    engine = tokenizers.Tokenizer(
        models.BPE(
            vocab=table,
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            unk_token=END,
        )
    )
    engine.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([START, END])
    engine.post_processor = processors.RobertaProcessing(
        (END, table[END]), (START, table[START]), trim_offsets=False, add_prefix_space=False
    )
    return engine


def _readable(token: str) -> str:
    if token in (START, END):
        return token
    text = bytes(alphabet()[sign] for sign in token.removesuffix(WORD_END)).decode("utf-8", errors="backslashreplace")
    return text + " " * token.endswith(WORD_END)


def _checked(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"The text is not valid Unicode: character {error.start + 1} is half of a surrogate pair.",
            "Texts in UTF-8 are read.",
            "Was it decoded with the wrong encoding?",
        ) from None
    return text


def _json(path: Path) -> dict[str, Any]:
    content = files.read_json(path, limit=LARGEST_FILE)
    if not isinstance(content, dict):
        raise UserError(f'"{path}" holds a JSON {type(content).__name__}.', "A tokenizer's file holds an object.")
    return content


def _from_lines(path: Path) -> list[Merge]:
    """One merge a line, two tokens apart by one space; a first line `#version` is a comment."""
    lines = files.read_text(path, limit=LARGEST_FILE).splitlines()
    if lines and lines[0].startswith("#version"):
        del lines[0]
    return [_merge(line.split(" "), path) for line in lines if line.strip()]


def _merge(parts: Any, path: Path) -> Merge:
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) and part for part in parts)):
        raise UserError(
            f"{path} has a merge {str(parts)[:60]!r}.",
            "A merge is two tokens.",
            "The file may be truncated: fetch it again.",
        )
    return parts[0], parts[1]


def _numbered(content: Any, path: Path) -> dict[str, int]:
    if not isinstance(content, dict) or not all(type(index) is int for index in content.values()):
        raise UserError(f"{path} does not give every token a number.", "A vocabulary is a JSON object of token to id.")
    return content


def _from_one_file(content: dict[str, Any], path: Path) -> tuple[list[Merge], dict[str, int]]:
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != WORD_END:
        raise UserError(
            f"{path} is not a tokenizer of CLIP's kind.",
            f'Byte-pair encoding (model type "BPE") whose words end in "{WORD_END}" is read.',
            "Is this the folder of another kind of model?",
        )
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise UserError(f"{path} has no list of merges.", "", "Fetch it again.")
    pairs = [_merge(merge.split(" ") if isinstance(merge, str) else merge, path) for merge in merges]
    table = _numbered(model.get("vocab"), path)
    # Some writers keep start and end out of the model's vocabulary and list them as added tokens only.
    listed = _added(content)
    return pairs, table | {token: listed[token] for token in (START, END) if token in listed and token not in table}


def _added(content: dict[str, Any]) -> dict[str, int]:
    """Token -> id for the `added_tokens` of a tokenizer.json."""
    rows = content.get("added_tokens")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {row["content"]: row["id"] for row in rows if type(row.get("content")) is str and type(row.get("id")) is int}


def _refuse_added_tokens(folder: Path, content: dict[str, Any] | None, size: int) -> None:
    """Words that a textual inversion added have ids past CLIP's own; their embeddings are not read, so say it."""
    added = {} if content is None else _added(content)
    if (folder / "added_tokens.json").is_file():
        added |= _numbered(_json(folder / "added_tokens.json"), folder / "added_tokens.json")
    beyond = sorted(token for token, index in added.items() if index >= size)
    if beyond:
        raise UserError(
            f"The tokenizer in {folder} adds words of its own: {', '.join(beyond[:5])}.",
            "Tokenizers with CLIP's vocabulary are read.",
            "Use the tokenizer of the model that it was made from.",
        )


def _pad_of(folder: Path) -> str:
    """ "zero" where the folder names "!" (id 0) as its padding, as Stable Diffusion 2 does; "end" otherwise."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            token = _json(folder / name).get("pad_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None:
                return "zero" if token == "!" else "end"
    return "end"


def _written(content: dict[str, Any], indent: int | None = None) -> str:
    return json.dumps(content, ensure_ascii=False, indent=indent) + "\n"
