"""Hostile files, made by code: good ones of every kind, and what is done to them."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.weights.models import SMALL, random_model
from tests.weights.test_bad_input import CONFIGS, CONTENTS, OTHER_FILES
from tests.weights.test_pickles import PROGRAMS, zipped

from aquatint.weights import save

KINDS = ("model", "lora", "embedding")
Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Case:
    """A file or folder to be made in a folder of its own.

    opens   the kinds of entry that open it all the same     takes   those whose every entry it is sent through
    """

    name: str
    make: Make
    opens: tuple[str, ...] = ()
    takes: tuple[str, ...] = KINDS


class Goods:
    """A good file of each kind, for the small Stable Diffusion 1 of the tests."""

    def __init__(self, root: Path) -> None:
        opened = random_model(SMALL["SD15"])
        self.native = save(opened, root / "native")
        self.folder = save(opened, root / "diffusers", "diffusers")
        self.model = save(opened, root / "model.safetensors", "compvis")
        where, what = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", torch.ones(2, 16)
        self.layers = {f"{where}.lora_down.weight": what, f"{where}.lora_up.weight": what.T.contiguous()}
        self.lora, self.embedding = root / "lora.safetensors", root / "embedding.safetensors"
        save_file(self.layers, self.lora, {"ss_tag_frequency": '{"a": {"cat": 3}}', "ss_output_name": "cats"})
        save_file({"emb_params": torch.ones(2, 24)}, self.embedding, {"name": "word"})
        self.archive = zipped({"x/data.pkl": b"\x80\x02}.", "x/data/0": b""}, root / "archive.pt")

    def of(self, kind: str) -> Path:
        path: Path = getattr(self, kind)
        return path

    def beside(self, path: Path) -> Path:
        """The tokenizer that a single file has beside itself, linked there."""
        target = path.with_suffix(".tokenizer")
        target.mkdir()
        for file in self.model.with_suffix(".tokenizer").iterdir():
            os.link(file, target / file.name)
        return path

    def copied(self, path: Path) -> Path:
        """A diffusers folder of one's own, its files linked."""
        for file in self.folder.rglob("*"):
            if file.is_file():
                (path / file.relative_to(self.folder)).parent.mkdir(parents=True, exist_ok=True)
                os.link(file, path / file.relative_to(self.folder))
        return path


def replaced(path: Path, data: bytes | str) -> None:
    """Another content for a linked file, which stays what it was elsewhere."""
    path.unlink(missing_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def whole(head: bytes, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(head) if length is None else length) + head + body


Change = Callable[[dict[str, Any], bytes], bytes]


def heads() -> Iterator[tuple[str, Change]]:
    """What is done to a head and what follows it."""

    def cut(share: float) -> Change:
        return lambda head, body: (data := whole(json.dumps(head).encode(), body))[: int(len(data) * share)]

    for share in (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.9999):
        yield f"cut to {share}", cut(share)
    for length in (0, 1, 2**23 + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        yield f"length {length}", lambda head, body, n=length: whole(json.dumps(head).encode(), body, n)
    for by in (-1, 1):
        yield f"length {by:+}", lambda head, body, n=by: whole((text := json.dumps(head).encode()), body, len(text) + n)
    for name, text in {
        "nothing": "", "a list": "[]", "a number": "7", "null": "null", "a text": '"x"',
        "nested lists": "[" * 100_000,
        "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000, "open": "{", "single quotes": "{'a': 1}",
        "spaces": "{" + " " * (8 * 2**20 - 2) + "}", "commas": "{" + "," * 1_000_000 + "}",
        "lists of lists": '{"a":[' + "[]," * 2_000_000 + "[]]}", "a long number": '{"a":' + "1" * 1_000_000 + "}",
        "too long": "{" + " " * (8 * 2**20) + "}", "a long key": '{"' + "k" * 4_000_000 + '":1}',
        "many keys": "{" + ",".join(f'"{k}":{k}' for k in range(400_000)) + "}",
        "as many keys as are read": "{" + ",".join(f"\"{k}\":{k}" for k in range(290_000)) + "}",
    }.items():  # fmt: skip
        yield f"head: {name}", lambda head, body, text=text: whole(text.encode(), body)
    yield "a byte order mark", lambda head, body: whole(b"\xef\xbb\xbf" + json.dumps(head).encode(), body)
    yield "UTF-16", lambda head, body: whole(json.dumps(head).encode("utf-16"), body)
    yield "not UTF-8", lambda head, body: whole(b'{"\xff": 1}', body)
    for count in (1, 8, 4096):
        yield f"{count} bytes too many", lambda head, body, n=count: whole(json.dumps(head).encode(), body + bytes(n))
    for field in ("", "dtype", "__metadata__"):
        yield f"twice {field or 'a name'}", lambda head, body, field=field: whole(twice(head, field), body)
    for name, values in FIELDS.items():
        for number, value in enumerate(values):
            yield (
                f"{name} {number}",
                lambda head, body, name=name, value=value: whole(text_of(changed(head, {name: value})), body),
            )
    yield "a field more", lambda head, body: whole(text_of(changed(head, {"evil": "os.system"})), body)
    yield "a field less", lambda head, body: whole(text_of(changed(head, {}, drop="dtype")), body)
    yield "a text for a tensor", lambda head, body: whole(text_of(head | {tensors(head)[0]: "os.system"}), body)
    yield "the same bytes", lambda head, body: whole(text_of(overlapping(head)), body)
    for name, metadata in METADATA.items():
        yield (
            f"metadata: {name}",
            lambda head, body, metadata=metadata: whole(text_of(head | {"__metadata__": metadata}), body),
        )
    for number, name in enumerate(NAMES):
        yield (
            f"name {number}",
            lambda head, body, name=name: whole(
                text_of(head | {prefix(head) + name: {"dtype": "F32", "shape": [0], "data_offsets": [len(body)] * 2}}),
                body,
            ),
        )
    yield (
        "20,001 tensors",
        lambda head, body: whole(
            text_of(
                {f"{prefix(head)}{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(20_001)}
            ),
            b"",
        ),
    )


FIELDS: dict[str, list[Any]] = {
    "dtype": ["os.system", "f32", "F32 ", "", None, 5, ["F32"], {}, "F4", "C64", "I32", "U32", "F64", "F16", "BOOL"],
    "shape": [
        [-1, 4], [2**31, 2**31], [2**62, 4], [2**55, 2, 0], [10**17, 10], [1] * 9, [], [[4]], "4", None, {}, [True],
        [4.0], [1e400], ["4"], [10**30], [0], [2**64, 0],
    ],
    "data_offsets": [
        [0], [], [0, 1, 2], [-4, 4], [4, 0], [0, 2**60], [2**63, 2**63], [0.0, 4.0], ["0", "4"], None, {}, "04",
        [[0], [4]], [True, False], [1, 5], [10**25, 10**25 + 4],
    ],
}  # fmt: skip
METADATA: dict[str, Any] = {
    "a list": [], "a text": "x", "a number": {"a": 5}, "null": {"a": None}, "a list in it": {"a": ["b"]},
    "an object in it": {"a": {"b": "c"}}, "half a surrogate": {"a": "\ud800"}, "true": True,
    "not described": {"aquatint": "{"}, "described as nothing": {"aquatint": "{}"},
    "described in depth": {"aquatint": "[" * 100_000}, "described at length": {"aquatint": "[" + "[]," * 150_000},
}  # fmt: skip
NAMES = [
    "../../../etc/passwd", "/etc/passwd", "C:\\windows\\system.ini", "a\u0000b", "__class__",
    "__init__.__globals__", "",
    "..", "%s%n", "{0.__class__}", "<script>alert(1)</script>", "x" * 1_000_000, "\u202egnp.exe", "${jndi:ldap://x}",
    "'; DROP TABLE x; --", "\n\n\r", "\ud800",
]  # fmt: skip


def text_of(head: dict[str, Any]) -> bytes:
    return json.dumps(head).encode()


def tensors(head: dict[str, Any]) -> list[str]:
    return [name for name in head if name != "__metadata__"]


def prefix(head: dict[str, Any]) -> str:
    """Where a name would be one of the net's own."""
    return "model.diffusion_model." if any(name.startswith("model.") for name in head) else ""


def changed(head: dict[str, Any], fields: dict[str, Any], drop: str = "") -> dict[str, Any]:
    """The first tensor's fields replaced."""
    first = tensors(head)[0]
    return head | {first: {name: value for name, value in (head[first] | fields).items() if name != drop}}


def overlapping(head: dict[str, Any]) -> dict[str, Any]:
    """Every tensor begins where the file does."""
    moved = {}
    for name in tensors(head):
        begin, end = head[name]["data_offsets"]
        moved[name] = head[name] | {"data_offsets": [0, end - begin]}
    return head | moved | ({} if len(moved) > 1 else {"b": next(iter(moved.values()))})


def twice(head: dict[str, Any], field: str) -> bytes:
    text, first = json.dumps(head), tensors(head)[0]
    if field == "dtype":
        return text.replace('{"dtype"', '{"dtype": "F32", "dtype"', 1).encode()
    name = field or first
    return (text[:-1] + f", {json.dumps(name)}: {json.dumps(head[name])}}}").encode()


def head_cases(goods: Goods) -> Iterator[Case]:
    for kind in KINDS:
        data = goods.of(kind).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        head, body = json.loads(data[8:start]), data[start:]
        for name, change in heads():

            def make(home: Path, change: Change = change, kind: str = kind, head: Any = head, body: Any = body) -> Path:
                path = home / f"{kind}.safetensors"
                path.write_bytes(change(head, body))
                return goods.beside(path) if kind == "model" else path

            text = kind != "model" and name.startswith("metadata: ") and "described" in name  # just a text there
            yield Case(f"{kind}, {name}", make, (kind,) if text else (), (kind,))
        for bad in ("nan", "inf", "-inf"):
            for number in range(3 if kind == "model" else 1):

                def spoiled(home: Path, kind: str = kind, bad: str = bad, number: int = number) -> Path:
                    rows = load_file(goods.of(kind))
                    names = sorted(rows)
                    tensor = rows[names[len(names) * number // 3]]
                    tensor.view(-1)[-1] = float(bad)
                    path = home / f"{kind}.safetensors"
                    save_file(rows, path)
                    return goods.beside(path) if kind == "model" else path

                yield Case(f"{kind}, {bad} in tensor {number}", spoiled, takes=(kind,))


def content_cases() -> Iterator[Case]:
    for number, content in enumerate((*CONTENTS, b"#!/bin/sh\ntouch x\n", b"import os\n", bytes(2**20), b"\n" * 999)):
        for ending in (".safetensors", ".pt"):
            yield Case(f"content {number} as {ending}", lambda home, c=content, e=ending: written(home / f"x{e}", c))
    yield Case("a pipe", lambda home: (os.mkfifo(home / "x.safetensors"), home / "x.safetensors")[1])
    yield Case("a folder", lambda home: ((home / "x.safetensors").mkdir(), home / "x.safetensors")[1])
    yield Case("a loop of links", looped)
    yield Case("a terabyte of nothing", lambda home: sparse(home / "x.safetensors", b""))
    yield Case("a terabyte behind a head", lambda home: sparse(home / "x.safetensors", whole(b"{}", b"")))


def looped(home: Path) -> Path:
    (home / "x.safetensors").symlink_to(home / "y.safetensors")
    (home / "y.safetensors").symlink_to(home / "x.safetensors")
    return home / "x.safetensors"


def written(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def sparse(path: Path, start: bytes) -> Path:
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(2**40)
    return path


def calls(module: str, name: str, *arguments: str) -> bytes:
    """A program that would call a function with texts."""
    told = b"".join(b"X" + struct.pack("<I", len(text)) + text.encode() for text in arguments)
    return f"c{module}\n{name}\n".encode() + b"(" + told + b"tR"


POISONS: dict[str, bytes] = {
    f"{module}.{name}": calls(module, name, *arguments)
    for module, name, *arguments in (
        ("os", "system", "touch canary"), ("posix", "system", "touch canary"), ("nt", "system", "calc"),
        ("subprocess", "Popen", "true"), ("subprocess", "check_output", "true"), ("builtins", "eval", "1"),
        ("builtins", "exec", "import os"), ("__builtin__", "eval", "1"), ("builtins", "__import__", "os"),
        ("builtins", "open", "canary", "w"), ("builtins", "compile", "1", "x", "eval"), ("builtins", "getattr",
        "a", "b"),
        ("importlib", "import_module", "canary"), ("runpy", "run_path", "canary.py"), ("pickle", "loads", "x"),
        ("torch", "load", "canary"), ("torch.hub", "load", "a/b", "c"), ("torch.storage", "_load_from_bytes", "x"),
        ("numpy", "load", "canary"), ("numpy.testing._private.utils", "runstring", "1", "x"), ("os", "remove",
        "canary"),
        ("shutil", "rmtree", "/nowhere"), ("webbrowser", "open", "http://127.0.0.1:9"), ("pty", "spawn", "true"),
        ("socket", "create_connection", "127.0.0.1:9"), ("urllib.request", "urlopen", "http://127.0.0.1:9"),
        ("ctypes", "CDLL", "libc.so.6"), ("code", "interact"), ("bdb", "Bdb"), ("timeit", "timeit", "1"),
        ("asyncio", "create_subprocess_shell", "true"), ("_io", "FileIO", "canary", "w"), ("types", "CodeType"),
        ("functools", "partial", "a"), ("operator", "attrgetter", "__class__"), ("pip", "main", "install"),
        ("torch._utils", "_rebuild_wrapper_subclass"), ("torch.jit", "load", "canary"), ("canary", "run"),
        ("torch.serialization", "load", "canary"), ("pydoc", "pipepager", "x", "true"), ("profile", "run", "1"),
    )
}  # fmt: skip


def pickle_cases(goods: Goods) -> Iterator[Case]:
    def zip_of(program: bytes) -> Make:
        return lambda home: zipped({"x/data.pkl": b"\x80\x02" + program + b".", "x/data/0": bytes(16)}, home / "x.pt")

    for name, program in POISONS.items():
        yield Case(f"{name} alone", zip_of(program))
        yield Case(f"{name} beside weights", zip_of(b"}X\x01\x00\x00\x00a" + program + b"s"))
        yield Case(f"{name} as a dict", zip_of(b"}" + program + b"X\x01\x00\x00\x00as"))
        yield Case(f"{name} bare", lambda home, p=program: written(home / "x.ckpt", b"\x80\x02" + p + b"."))
        yield Case(f"{name} in the older layout", lambda home, p=program: written(home / "x.pt", older(p)))
    for name, program in PROGRAMS.items():
        yield Case(f"program: {name}", lambda home, p=program: zipped({"x/data.pkl": p}, home / "x.pt"))
    for name, members in {
        "no pickle": {"x/other": b""}, "two pickles": {"x/data.pkl": b"\x80\x02}.", "y/data.pkl": b"\x80\x02}."},
        "a path": {"../../x/data.pkl": b"\x80\x02}.", "../../canary.py": b"x"},
        "an absolute path": {"/x/data.pkl": b"x"},
        "50,000 members": {f"x/{k}": b"" for k in range(50_000)}, "code": {"x/data.pkl": b"\x80\x02}.",
        "x/code/a.py": b""},
        "TorchScript": {"x/data.pkl": b"\x80\x02}.", "x/constants.pkl": b"\x80\x02}.", "x/code/__torch__.py": b"x"},
    }.items():  # fmt: skip
        yield Case(f"archive: {name}", lambda home, m=members: zipped(m, home / "x.pt"))
    bomb = {"x/data.pkl": b"\x80\x02]" + b"N" * (64 * 2**20) + b"."}
    yield Case("archive: packed", lambda home: zipped(bomb, home / "x.pt", zipfile.ZIP_DEFLATED))


def older(program: bytes) -> bytes:
    """The layout before the zip archive: five pickles one after the other."""
    first = (pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return b"".join(first) + b"\x80\x02" + program + b"." + pickle.dumps([], 2)


def folder_cases(goods: Goods) -> Iterator[Case]:
    def with_file(name: str, content: bytes | str) -> Make:
        def make(home: Path) -> Path:
            path = goods.copied(home / "model")
            (path / name).parent.mkdir(exist_ok=True)
            replaced(path / name, content)
            return path

        return make

    for case, config in (CONFIGS | DEEP).items():
        old = json.loads((goods.folder / "unet/config.json").read_text())
        text = config if isinstance(config, str) else json.dumps(old | config)
        yield Case(f"unet/config.json: {case}", with_file("unet/config.json", text))
    for name, rows in OTHER_FILES.items():
        old = json.loads((goods.folder / name).read_text())
        for row in rows:
            yield Case(f"{name}: {str(row)[:60]}", with_file(name, json.dumps(old | row)))
        for case, text in TEXTS.items():
            yield Case(f"{name}: {case}", with_file(name, text))
    for name, text in TOKENIZERS.items():
        yield Case(f"tokenizer, {name}", tokenizer(goods, *text))
    for name in ("unet", "vae/config.json", "text_encoder/model.safetensors", "tokenizer", "tokenizer/merges.txt"):
        yield Case(f"a link for {name}", linked(goods, name))
    table = dict.fromkeys(load_file(goods.folder / "unet/diffusion_pytorch_model.safetensors"), "x")
    for target in ("../../x", "/etc/passwd", "..", "", ".", "a\\b", "a/b", "x\u0000", "http://127.0.0.1:9/x", "~/x"):
        yield Case(f"an index of {target!r}", indexed(goods, dict.fromkeys(table, target)))
    yield Case("an index of numbers", indexed(goods, dict.fromkeys(table, 3)))
    yield Case("an index of a list", indexed(goods, [1]))
    for case, text in TEXTS.items():
        yield Case(f"adapter_config.json: {case}", adapter(goods, text))
    for value in ("NaN", "1e400", '"8"', "true", "[8]", "{}", "1" + "0" * 400):
        yield Case(f"lora_alpha {value[:9]}", adapter(goods, f'{{"lora_alpha": {value}, "r": 2}}'))


DEEP: dict[str, Any] = {
    "as deep as may be": {"transformer_layers_per_block": [14, 14, 14, 2], "layers_per_block": 3},
    "deeper": {"transformer_layers_per_block": [40, 40, 40, 40], "layers_per_block": 4},
    "as many blocks as may be": {"layers_per_block": 10, "transformer_layers_per_block": [4, 4, 4, 8]},
    "as wide as may be": {
        "block_out_channels": [16_384] * 4,
        "attention_head_dim": 8,
        "transformer_layers_per_block": 9,
    },
}
TEXTS = {
    "nested": "[" * 100_000, "lists": "[" + "[]," * 1_300_000 + "[]]", "not JSON": "{", "too long": " " * (5 * 2**20),
    "twice": '{"a": 1, "a": 2}', "a number": "5", "a list": "[]", "infinite": '{"a": Infinity}',
    "objects": '{"a":[' + "{}," * 1_300_000 + "{}]}", "a long number": '{"a":' + "9" * 4_000_000 + "}",
}  # fmt: skip
TOKENIZERS: dict[str, tuple[str, str]] = {
    "nested": ("tokenizer.json", "[" * 100_000), "lists": ("tokenizer.json", '{"a":[' + "[]," * 11_000_000 + "[]]}"),
    "another kind": ("tokenizer.json", '{"model": {"type": "Unigram"}}'), "no model": ("tokenizer.json", "{}"),
    "a negative id": ("vocab.json", '{"a": -1}'), "a huge id": ("vocab.json", '{"a": 18446744073709551616}'),
    "a text for an id": ("vocab.json", '{"a": "1"}'), "no ids": ("vocab.json", "{}"),
    "vocab of a list": ("vocab.json", "[]"),
    "merges of one": ("merges.txt", "a\n"), "merges of three": ("merges.txt", "a b c\n"), "strange": ("merges.txt",
    "\0 \0\n"),
    "merges of nobody": ("merges.txt", "qqqq zzzz\n"), "a million merges": ("merges.txt", "a b\n" * 1_000_000),
    "words of its own": ("added_tokens.json", '{"<evil>": 99999}'), "a vocabulary of millions": (
        "vocab.json", "{" + ",".join(f'"{k}":{k}' for k in range(1_500_000)) + "}"),
    "a pad that is a path": ("special_tokens_map.json", "[]"), "no UTF-8": ("merges.txt", "\udcff \udcff"),
}  # fmt: skip


def tokenizer(goods: Goods, name: str, text: str) -> Make:
    def make(home: Path) -> Path:
        path = goods.copied(home / "model")
        if name != "tokenizer.json":
            (path / "tokenizer/tokenizer.json").unlink()
        replaced(path / "tokenizer" / name, text.encode("utf-8", "surrogateescape"))
        return path

    return make


def linked(goods: Goods, name: str) -> Make:
    def make(home: Path) -> Path:
        path = goods.copied(home / "inner/model")
        (path / name).rename(home / "outside")
        (path / name).symlink_to(home / "outside")
        return path

    return make


def indexed(goods: Goods, table: Any) -> Make:
    def make(home: Path) -> Path:
        path = goods.copied(home / "model")
        weights = path / "unet/diffusion_pytorch_model.safetensors"
        weights.rename(path / "unet/a.safetensors")
        (path / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
        return path

    return make


def adapter(goods: Goods, text: str) -> Make:
    def make(home: Path) -> Path:
        layer = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
        rows = dict(zip((f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"), goods.layers.values(), strict=True))
        (home / "peft").mkdir()
        save_file(rows, home / "peft/adapter_model.safetensors")
        return written(home / "peft/adapter_config.json", text).parent

    return make


def adapter_cases(goods: Goods) -> Iterator[Case]:
    def with_rows(rows: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Make:
        def make(home: Path) -> Path:
            save_file(rows, home / "x.safetensors", metadata)
            return home / "x.safetensors"

        return make

    down, up = goods.layers
    stem = down.partition(".")[0]
    for name, rows in {
        "rank 0": {down: torch.zeros(0, 16), up: torch.zeros(16, 0)}, "another rank": {down: torch.zeros(3, 16)},
        "rank 9,000": {down: torch.zeros(9_000, 16), up: torch.zeros(16, 9_000)}, "no up": {up: None},
        "an alpha of NaN": {f"{stem}.alpha": torch.tensor(float("nan"))},
        "alphas": {f"{stem}.alpha": torch.zeros(2, 2)},
        "an infinite alpha": {f"{stem}.alpha": torch.tensor(float("inf"))},
        "whole numbers": {down: torch.zeros(2, 16).int()},
        "another layer": {f"{stem}x.lora_down.weight": torch.zeros(2, 16)}, "a part": {f"{stem}.evil": torch.zeros(2)},
        "two dialects": {"base_model.model.a.lora_A.weight": torch.zeros(2, 2)}, "a scalar": {down: torch.tensor(1.0)},
        "Kronecker": {down: None, up: None, f"{stem}.lokr_w1": torch.zeros(512, 512),
        f"{stem}.lokr_w2": torch.zeros(512, 512)},
        "Hadamard": {down: None, up: None, f"{stem}.hada_w1_a": torch.zeros(16, 2),
        f"{stem}.hada_w1_b": torch.zeros(2, 16)},
        "OFT": {down: None, up: None, f"{stem}.oft_blocks": torch.zeros(999, 2, 2)},
        "eight sides": {down: torch.zeros((1,) * 8)},
    }.items():  # fmt: skip
        mixed = {key: tensor for key, tensor in (goods.layers | rows).items() if tensor is not None}
        yield Case(f"lora, {name}", with_rows(mixed))
    for name, text in TEXTS.items():
        yield Case(f"lora settings: {name}", with_rows(goods.layers, {"lora_adapter_metadata": text[:4_000_000]}))
        tags = {"ss_tag_frequency": text[:500_000], "modelspec.trigger_phrase": ""}
        yield Case(f"lora tags: {name}", with_rows(goods.layers, tags), opens=("lora",))
    for name, tensor in {
        "1,001 vectors": torch.zeros(1_001, 24), "no vectors": torch.zeros(0, 24), "no width": torch.zeros(2, 0),
        "another width": torch.zeros(2, 25), "three sides": torch.zeros(1, 2, 24), "a number": torch.tensor(1.0),
        "whole": torch.zeros(2, 24).int(),
    }.items():  # fmt: skip
        yield Case(f"embedding, {name}", with_rows({"emb_params": tensor}))
    yield Case("embedding, a long word", with_rows({"w" * 300: torch.zeros(2, 24), "v": torch.zeros(2, 24)}))
    for name, text in TEXTS.items():
        yield Case(f"embedding in a picture: {name}", pictured(text[:2_000_000]))


def pictured(text: str) -> Make:
    def make(home: Path) -> Path:
        import base64

        from PIL import Image, PngImagePlugin

        info = PngImagePlugin.PngInfo()
        info.add_text("sd-ti-embedding", base64.b64encode(text.encode()).decode(), zip=len(text) < 700_000)
        Image.new("RGB", (8, 8)).save(home / "x.png", pnginfo=info)
        return home / "x.png"

    return make


def corpus(goods: Goods) -> list[Case]:
    """All of it."""
    good = [
        Case(f"good {kind}", lambda home, kind=kind: goods.of(kind), opens=(kind,)) for kind in KINDS
    ]  # fmt: skip
    good += [
        Case("good folder", lambda home: goods.folder, ("model",)),
        Case("good native", lambda home: goods.native, ("model",)),
    ]
    cases = [
        *good, *head_cases(goods), *content_cases(), *pickle_cases(goods), *folder_cases(goods), *adapter_cases(goods)
    ]  # fmt: skip
    assert len({case.name for case in cases}) == len(cases)
    return cases
