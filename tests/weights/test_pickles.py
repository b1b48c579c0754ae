"""What torch.save wrote is read as data: equal to torch's own reading, and nothing that a file says is ever run."""

import io
import json
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.weights.models import ODD, random_model, same_weights

from aquatint.base.errors import UserError
from aquatint.weights import inspect, open_model, pickles, save, store
from aquatint.weights.pickles import Named, Opaque, Refused, Stored
from aquatint.weights.torchfile import TorchFile

LAYOUTS = [True, False]  # the zip archive, and what came before it


def written(value: Any, path: Path, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """A small checkpoint in the original layout."""
    folder = tmp_path_factory.mktemp("odd")
    save(random_model(ODD), folder / "m.safetensors", "compvis")
    return load_file(folder / "m.safetensors")


class TestReading:
    @pytest.mark.parametrize("zipped", LAYOUTS)
    @pytest.mark.parametrize(
        "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
                  torch.int8, torch.uint8, torch.bool], ids=str,
    )  # fmt: skip
    def test_every_kind_of_number(self, zipped: bool, dtype: torch.dtype, tmp_path: Path) -> None:
        made = {"a": torch.arange(-3, 9).reshape(3, 4).to(dtype), "b.c": torch.zeros(0, 5, dtype=dtype)}
        file = TorchFile(written(made, tmp_path / "x.pt", zipped))
        for name, tensor in made.items():
            assert torch.equal(file.tensor(name), tensor)
            assert file.tensor(name).dtype == dtype

    @pytest.mark.parametrize("zipped", LAYOUTS)
    def test_views_share_a_storage(self, zipped: bool, tmp_path: Path) -> None:
        base = torch.arange(60.0).reshape(3, 4, 5)
        made = {"whole": base, "part": base[1, 1:3], "turned": base.permute(2, 0, 1), "every": base[:, ::2, 1]}
        file = TorchFile(written(made, tmp_path / "x.pt", zipped))
        for name, tensor in made.items():
            assert torch.equal(file.tensor(name), tensor)
            assert file.tensor(name).stride() == tensor.stride()

    def test_dicts_within_dicts_parameters_and_what_lies_beside(self, tmp_path: Path) -> None:
        made = {
            "string_to_param": {"*": torch.nn.Parameter(torch.ones(2, 8))},
            "name": "my style",
            "step": 500,
            "sd": None,
            "history": [1, 2.5, {"x": (True, b"bytes")}],
            "scores": np.float64(0.5),
            "size": torch.Size([1, 2]),
            "dtype": torch.float16,
            7: {"nested": OrderedDict(a=torch.zeros(1))},
        }
        file = TorchFile(written(made, tmp_path / "x.pt"))
        assert set(file.header.entries) == {"string_to_param.*", "7.nested.a"}
        assert file.header.metadata == {"name": "my style", "step": "500"}
        assert torch.equal(file.tensor("string_to_param.*"), torch.ones(2, 8))

    def test_a_state_dict_is_the_whole(self, tmp_path: Path) -> None:
        made = {"state_dict": {"a": torch.ones(1)}, "epoch": 3, "optimizer_states": [{"state": {}}]}
        file = TorchFile(written(made, tmp_path / "x.ckpt"))
        assert list(file.header.entries) == ["a"]
        assert file.header.metadata == {"epoch": "3"}
        assert file.notes == ("beside its state_dict it holds epoch, optimizer_states: not looked at",)

    def test_objects_of_trainers_stay_closed(self, tmp_path: Path) -> None:
        program = (
            pickle.PROTO + b"\x02}(X\x09\x00\x00\x00callbacks}cpytorch_lightning.callbacks.model_checkpoint\n"
            b"ModelCheckpoint\n}X\x01\x00\x00\x00kK\x01ss"
            b"X\x01\x00\x00\x00ccomegaconf.listconfig\nListConfig\n)\x81}X\x01\x00\x00\x00aK\x01sbu."
        )  # fmt: skip
        value, end = pickles.run(program)
        assert end == len(program)
        assert value["callbacks"] == {
            Named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): {"k": 1}
        }
        assert value["c"] == Opaque(Named("omegaconf.listconfig", "ListConfig"))

    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_plain_values_are_pythons(self, protocol: int) -> None:
        value = {
            "none": None, "bools": [True, False], "ints": [0, 255, 256, 65536, -1, 2**40, -(2**90)], "text": "é" * 300,
            "float": -1.5, "tuples": [(), (1,), (1, 2), (1, 2, 3), tuple(range(9))], "empty": [{}, []],
        }  # fmt: skip
        value |= {"again": value["ints"]} | ({"bytes": b"\0" * 300, "short": b"x"} if protocol > 2 else {})
        assert pickles.run(pickle.dumps(value, protocol))[0] == value


class TestModels:
    @pytest.mark.parametrize("zipped", LAYOUTS)
    def test_a_checkpoint_opens_as_its_safetensors_does(
        self, zipped: bool, tensors: dict[str, torch.Tensor], tmp_path: Path
    ) -> None:
        model = random_model(ODD)
        path = written({"state_dict": tensors, "global_step": 5}, tmp_path / "m.ckpt", zipped)
        opened = open_model(path)
        assert same_weights(opened, model)
        assert opened.digest == open_model(path.rename(tmp_path / "m.bin")).digest
        assert any("global_step" in note for note in opened.notes)
        plan = inspect(tmp_path / "m.bin")
        assert plan.complete
        assert plan.format == "compvis"

    def test_averaged_weights_are_preferred_on_request(self, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
        prefix = "model.diffusion_model."
        averaged = {
            "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        path = written({"state_dict": tensors | averaged}, tmp_path / "m.ckpt")
        plain, ema = (open_model(path, ema=choice).unet for choice in ("ignore", "prefer"))
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(ema.state_dict()[name], tensor + 1)

    def test_a_folder_of_bins(self, tmp_path: Path) -> None:
        model = random_model(ODD)
        save(model, tmp_path / "folder", "diffusers")
        for weights in list((tmp_path / "folder").rglob("*.safetensors")):
            name = "pytorch_model.bin" if weights.parent.name == "text_encoder" else "diffusion_pytorch_model.bin"
            written(OrderedDict(load_file(weights)), weights.with_name(name))
            weights.unlink()
        opened = open_model(tmp_path / "folder")
        assert same_weights(opened, model)
        assert sum("is a pickle, read as data" in note for note in opened.notes) == 3


def importable() -> list[tuple[str, str]]:
    """(module, name) of everything in the modules that are loaded: Python's library, torch and numpy."""
    names = set()
    for module in list(sys.modules.values()):
        home = getattr(module, "__name__", "")
        if home.partition(".")[0] in {*sys.stdlib_module_names, "torch", "numpy", "builtins", "__builtin__"}:
            names |= {(home, name) for name in vars(module) if isinstance(name, str) and name.isascii()}
    return sorted(names | {("os", "system"), ("builtins", "eval"), ("posix", "system"), ("__builtin__", "apply")})


def programs(module: str, name: str) -> Iterator[bytes]:
    """Every way in which a pickle could have a global do something."""
    text = [b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name) if len(part) < 256]
    argument = b"X\x02\x00\x00\x00id"
    named = f"c{module}\n{name}\n".encode()
    yield b"\x80\x02" + named + argument + b"\x85R."  # REDUCE
    yield b"\x80\x02" + named + argument + b"\x85\x81."  # NEWOBJ
    yield b"\x80\x04" + named + argument + b"\x85}\x92."  # NEWOBJ_EX
    yield b"\x80\x02" + named + b")R}" + argument + b"K\x01sb."  # BUILD of its result
    yield b"\x80\x02(i" + f"{module}\n{name}\n".encode() + b"."  # INST
    yield b"\x80\x02(" + named + argument + b"o."  # OBJ
    if len(text) == 2:
        yield b"\x80\x04" + text[0] + text[1] + b"\x93" + argument + b"\x85R."  # STACK_GLOBAL
    yield b"\x80\x02cbuiltins\ngetattr\n" + named + argument + b"\x86R."  # nested


INERT = {*pickles._CALLS, *pickles.STORAGES, *pickles._DTYPES, "numpy.ndarray"}


def refused_everywhere(names: list[tuple[str, str]]) -> int:
    count = 0
    for module, name in names:
        for number, program in enumerate(programs(module, name)):
            if f"{module}.{name}" in INERT and number not in (2, 4, 5, 7):
                try:  # a name that checkpoints use: what comes of it is a value of ours, or nothing
                    value, _ = pickles.run(program)
                except Refused:
                    continue
                assert isinstance(value, Opaque | dict)
                continue
            with pytest.raises(Refused):
                pickles.run(program)
            count += 1
    return count


def test_no_name_of_the_library_is_called(watched: list[tuple[str, str]]) -> None:
    names = importable()
    sample = random.Random(0).sample(names, 1500)
    watched.clear()
    assert refused_everywhere([*sample, ("os", "system"), ("builtins", "exec"), ("torch", "load")]) > 10_000
    assert watched == []


@pytest.mark.slow
def test_no_name_of_all_libraries_is_called(watched: list[tuple[str, str]]) -> None:
    names = importable()
    assert len(names) >= 30_000
    watched.clear()
    assert refused_everywhere(names) > 7 * len(names) - 1000
    assert watched == []


class Bomb:
    """An object whose unpickling runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch /nowhere",)


@pytest.mark.parametrize("zipped", LAYOUTS)
def test_a_bomb_in_a_checkpoint_does_not_go_off(zipped: bool, tmp_path: Path, watched: list[tuple[str, str]]) -> None:
    path = written({"state_dict": {"a": torch.ones(1)}, "bomb": Bomb()}, tmp_path / "x.ckpt", zipped)
    watched.clear()
    with pytest.raises(UserError, match=r"posix\.system|nt\.system"):
        open_model(path)
    assert not [event for event in watched if event[0] not in ("open", "import")]


def test_nothing_that_unpickles_is_called(
    tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [written({"state_dict": tensors}, tmp_path / f"{zipped}.ckpt", zipped) for zipped in LAYOUTS]
    bad = written({"bomb": Bomb()}, tmp_path / "bad.ckpt")
    open_model(paths[0])  # whatever is loaded the first time

    def poison(*_: Any, **__: Any) -> Any:
        raise AssertionError("a poisoned function was called")

    for name in ("torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler", "os.system", "subprocess.Popen"):
        monkeypatch.setattr(name, poison)
    monkeypatch.setattr("importlib.import_module", poison)
    for path in paths:
        open_model(path)
    with pytest.raises(UserError):
        open_model(bad)


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 4) -> bytes:
    number = b"\x8a" + bytes([(count.bit_length() + 8) // 8]) + count.to_bytes((count.bit_length() + 8) // 8, "little")
    text = b"X" + struct.pack("<I", len(key)) + key.encode()
    return (
        b"(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\n" + text + b"X\x03\x00\x00\x00cpu" + number + b"tQ"
    )


def tensor(offset: int, shape: tuple[int, ...], stride: tuple[int, ...], count: int = 4) -> bytes:
    numbers = [pickle.dumps(value, 2)[2:-1] for value in (offset, shape, stride)]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(count=count) + b"".join(numbers) + b"\x89)tR"


def test_a_tensor_lies_within_its_storage() -> None:
    def run(*args: Any, **options: Any) -> Any:
        return pickles.run(b"\x80\x02" + tensor(*args, **options) + b".")[0]

    assert isinstance(run(0, (2, 2), (2, 1)), Stored)
    assert isinstance(run(4, (0, 2), (2, 1)), Stored)
    for case in (
        (1, (2, 2), (2, 1)),
        (0, (2, 2), (3, 1)),
        (0, (5,), (1,)),
        (0, (5,), (0,)),  # more numbers than there are
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (1,) * 9, (1,) * 9),
        (0, (2**20, 2**20, 2**20), (0, 0, 0)),
        (2**63, (1,), (1,)),
        (0, (2**70,), (1,)),
        (0, (True,), (1,)),
        (5, (0,), (1,)),
    ):
        with pytest.raises(Refused):
            run(*case)
    with pytest.raises(Refused):
        run(0, (1,), (1,), count=2**41)


PROGRAMS = {
    "nothing": b"",
    "only a stop": b"\x80\x02.",
    "protocol 0": b"(dp0\n.",
    "protocol 6": b"\x80\x06}.",
    "two values": b"\x80\x02}}.",
    "an open mark": b"\x80\x02}(.",
    "a missing mark": b"\x80\x02t.",
    "a value across a mark": b"\x80\x02}(0.",
    "an unknown memo": b"\x80\x02h\x07.",
    "a text that is cut": b"\x80\x02X\xff\xff\xff\xffabc.",
    "bytes of 2^63": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.",
    "a number of 2^31 bytes": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a number of -1 bytes": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "no UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "a nested key": b"\x80\x02}K\x01\x85\x85K\x01s.",
    "items of a list": b"\x80\x02]K\x01K\x01s.",
    "appended to a dict": b"\x80\x02}K\x01a.",
    "half a pair": b"\x80\x02}(K\x01u.",
    "a call of a number": b"\x80\x02K\x01)R.",
    "a call with a list": b"\x80\x02ccollections\nOrderedDict\n]R.",
    "a call of an object": b"\x80\x02comegaconf.x\nY\n)R)R.",
    "a state of a number": b"\x80\x02K\x01K\x02b.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent line": b"\x80\x02P0\n.",
    "a persistent number": b"\x80\x02K\x01Q.",
    "no end of a name": b"\x80\x02c" + b"a" * 5000,
    "dicts of a persistent id": b"\x80\x02" + storage("NoStorage") + b".",
    "a set": b"\x80\x04\x8f.",
    "a frame": b"\x80\x04\x95\x01",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_broken_programs(name: str) -> None:
    with pytest.raises(Refused):
        pickles.run(PROGRAMS[name])


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


WIDE = b"(" + b"".join(text(str(k)) + b"N" for k in range(300)) + b"u"
GREEDY: dict[str, Callable[[], bytes]] = {
    "marks": lambda: b"(" * 110_000,
    "values": lambda: b"}" * 110_000,
    "opcodes": lambda: b"}0" * 8_000_000 + b"}.",
    "a list of millions": lambda: b"]" + b"Na" * 8_000_000 + b".",
    "lists upon lists": lambda: b"](" + (b"]" * 50_000 + b"e(") * 20 + b"e.",
    "memos": lambda: b"]" + b"".join(b"r" + struct.pack("<I", k) for k in range(1_100_000)),
    "tuples within tuples": lambda: b")" + b"\x85" * 100_000 + b".",
    "a list of itself": lambda: b"]q\x00" + b"h\x00a" * 50_000 + b".",
    "as many leaves as 2^20,000": lambda: b")" + b"q\x00h\x00\x86" * 20_000 + b".",
    "the same pairs again and again": lambda: b"](" + b"K\x01K\x02\x86" * 20_000 + b"eq\x000ccollections\nOrderedDict\n"
    b"q\x010" + b"h\x01h\x00\x85R0" * 20_000 + b"N.",
    "a long tuple as a key": lambda: b"(" + b"K\x01" * 90_000 + b"tq\x000}" + b"h\x00Ns" * 20_000 + b".",
    "equal long texts as keys": lambda: text("a" * 5_000_000) + b"q\x000" + text("a" * 5_000_000) + b"q\x010}h\x00Ns"
    + b"h\x01Ns" * 20_000 + b".",
    "numbers of one hash as keys": lambda: b"}("
    + b"".join(b"\x8a\x10" + (k * (2**61 - 1)).to_bytes(16, "little") + b"N" for k in range(20_000)) + b"u.",
    "floats of one hash as keys": lambda: b"}(" + b"".join(b"G" + struct.pack(">d", 2.0 ** (61 * k)) + b"N"
    for k in range(16)) + b"u.",
    "wide text": lambda: text("\U0001f41a" + "a" * 16_000_000) + b".",
    "dicts in dicts in dicts": lambda: b"}" + WIDE + b"q\x000" + b"".join(
        b"}(" + b"".join(text(str(k)) + b"h" + bytes([level]) for k in range(300)) + b"uq" + bytes([level + 1]) + b"0"
        for level in range(5)) + b"h\x05.",
    "a long name before many": lambda: tensor(0, (2,), (1,)) + b"q\x090}" + text("k" * 900) + b"}("
    + b"".join(text(str(k)) + b"h\x09" for k in range(19_000)) + b"us.",
    "a name of megabytes": lambda: text("omegaconf." + "a" * 5_000_000) + text("b") + b"\x93.",
}  # fmt: skip
CHILD = """
import json, resource, sys, time
from pathlib import Path
from aquatint.base.errors import UserError
from aquatint.weights.store import open_file
figures, peak = {}, lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    began = time.process_time()
    try:
        open_file(path)
        told = ""
    except UserError as error:
        told = str(error)
    figures[path.stem] = time.process_time() - began, peak() - before, told
print(json.dumps(figures))
"""


def test_greedy_programs_end_soon_and_stay_small(tmp_path: Path) -> None:
    """In a process as installed: the tests' own type checks make every opcode ten times slower. The bounds are S1's."""
    for name, make in GREEDY.items():
        zipped({"x/data.pkl": b"\x80\x02" + make(), "x/data/0": bytes(16)}, tmp_path / f"{name}.pt")
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures.keys() == GREEDY.keys()
    for name, (seconds, mebibytes, told) in figures.items():
        assert seconds < 2, name
        assert mebibytes < 256, name
        assert told, name  # none of them is a checkpoint
        assert len(told) < 500, name


def test_tensors_share_storages_within_reason(tmp_path: Path) -> None:
    def made(count: int) -> dict[str, bytes]:
        one = tensor(0, (100_000,), (1,), count=100_000)
        return {"m/data.pkl": b"\x80\x02}(" + b"".join(text(str(k)) + one for k in range(count)) + b"u.",
                "m/data/0": bytes(400_000)}  # fmt: skip

    assert len(TorchFile(zipped(made(8), tmp_path / "x.pt")).header.entries) == 8
    with pytest.raises(UserError, match="8 times its own bytes"):
        TorchFile(zipped(made(100), tmp_path / "y.pt"))


def test_the_older_layouts_pickles_share_one_budget(tmp_path: Path) -> None:
    magic, version, machine = (pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
    half = b"\x80\x02]" + b"Na" * 300_000 + b"."
    (tmp_path / "x.pt").write_bytes(magic + version + machine + half + half)
    with pytest.raises(UserError, match="more steps than any checkpoint"):
        TorchFile(tmp_path / "x.pt")


def test_a_huge_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(zipped(WHOLE, tmp_path / "x.pt").read_bytes())
    struct.pack_into("<I", data, len(data) - 10, 2**31)
    (tmp_path / "x.pt").write_bytes(data)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(UserError, match="directory is larger"):
        TorchFile(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(bytes(data) + b"comment")
    with pytest.raises(UserError, match="something follows it"):
        TorchFile(tmp_path / "x.pt")


def test_a_deep_value_is_no_checkpoint(tmp_path: Path) -> None:
    deep = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 20_000 + b"K\x01" + b"s" * 20_000 + b"."
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", deep)
    assert TorchFile(tmp_path / "x.pt").header.entries == {}


def zipped(members: dict[str, bytes], path: Path, kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


WHOLE = {"m/data.pkl": b"\x80\x02}X\x01\x00\x00\x00a" + tensor(0, (2, 2), (2, 1)) + b"s.", "m/data/0": bytes(16)}


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"m/other": b""}, "0 pickles"),
        (WHOLE | {"n/data.pkl": b"x"}, "2 pickles"),
        (WHOLE | {"m/data/0": bytes(15)}, "not as many"),
        ({"m/data.pkl": WHOLE["m/data.pkl"]}, "are not there"),
        (WHOLE | {"m/byteorder": b"big"}, "little-endian"),
        (WHOLE | {"m/data.pkl": WHOLE["m/data.pkl"] + b"x"}, "follows its pickle"),
        (WHOLE | {"m/data.pkl": b"\x80\x02]."}, "a checkpoint is a dict"),
    ],
)
def test_archives_that_are_not_torchs(members: dict[str, bytes], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        TorchFile(zipped(members, tmp_path / "x.pt"))


def test_a_whole_archive_and_a_packed_one(tmp_path: Path) -> None:
    file = TorchFile(zipped(WHOLE, tmp_path / "x.pt"))
    assert torch.equal(file.tensor("a"), torch.zeros(2, 2))
    with pytest.raises(UserError, match="packed or encrypted"):
        TorchFile(zipped(WHOLE | {"m/data/0": bytes(2**20)}, tmp_path / "y.pt", zipfile.ZIP_DEFLATED))


def test_members_lie_apart_and_inside(tmp_path: Path) -> None:
    data = bytearray(zipped(WHOLE, tmp_path / "x.pt").read_bytes())
    first, second = data.index(b"PK\x01\x02"), data.rindex(b"PK\x01\x02")
    for place, told in ((0, "within another|where its directory"), (len(data) - 40, "where its directory")):
        hurt = bytearray(data)
        struct.pack_into("<I", hurt, second + 42, place)
        (tmp_path / "y.pt").write_bytes(hurt)
        with pytest.raises(UserError, match=told):
            TorchFile(tmp_path / "y.pt")
    hurt = bytearray(data)
    for where in (first + 20, first + 24):
        struct.pack_into("<I", hurt, where, 2**31)
    (tmp_path / "y.pt").write_bytes(hurt)
    with pytest.raises(UserError, match=r"beyond the end|damaged"):
        TorchFile(tmp_path / "y.pt")


def test_bare_pickles_are_no_checkpoints(tmp_path: Path) -> None:
    for number, value in enumerate(({"a": 1}, [1], 5, 0x1950A86A20F9469CFC6C)):
        (tmp_path / f"{number}.pt").write_bytes(pickle.dumps(value, 2) * 5)
        with pytest.raises(UserError, match="is not read"):
            TorchFile(tmp_path / f"{number}.pt")


def hurt_files(path: Path, rounds: int, seed: int) -> int:
    """How many damaged copies of a file still open; any error but UserError, or a slow answer, fails."""
    data, generator, opened = path.read_bytes(), random.Random(seed), 0
    for _ in range(rounds):
        hurt = bytearray(data)
        kind = generator.randrange(4)
        if kind == 0:
            del hurt[generator.randrange(len(hurt)) :]
        else:
            for _ in range(generator.choice((1, 2, 8))):
                hurt[generator.randrange(len(hurt))] = generator.randrange(256)
        if kind == 3:
            at = generator.randrange(len(hurt))
            hurt[at:at] = generator.randbytes(generator.randrange(64))
        (path.parent / "hurt.pt").write_bytes(hurt)
        began = time.perf_counter()
        try:
            held = store.single(path.parent / "hurt.pt")
            for name in held.where:
                held.tensor(name).to(torch.float32)
            opened += 1
        except UserError:
            pass
        assert time.perf_counter() - began < 5
    return opened


def small(path: Path, zipped: bool) -> Path:
    made = {"state_dict": {f"layer.{k}.weight": torch.ones(2, k + 1) for k in range(4)}, "epoch": 1}
    return written(made, path, zipped)


@pytest.mark.parametrize("zipped", LAYOUTS)
def test_damage_is_always_told(zipped: bool, tmp_path: Path) -> None:
    assert hurt_files(small(tmp_path / "x.pt", zipped), 1500, seed=1) > 0  # changed numbers are still numbers


@pytest.mark.slow
@pytest.mark.parametrize("zipped", LAYOUTS)
def test_damage_is_always_told_a_hundred_thousand_times(zipped: bool, tmp_path: Path) -> None:
    hurt_files(small(tmp_path / "x.pt", zipped), 100_000, seed=2)


def opcode_soup(generator: random.Random) -> bytes:
    """A program of random opcodes, most of them known ones, with arguments of every size."""
    out = io.BytesIO()
    out.write(b"\x80\x02")
    known = [bytes([code]) for code in pickles._ACTIONS]
    for _ in range(generator.randrange(60)):
        out.write(generator.choice(known) if generator.random() < 0.95 else generator.randbytes(1))
        if generator.random() < 0.4:
            out.write(
                generator.choice((b"\x01", b"\x00\x00\x00\x00", b"os\nsystem\n", b"\xff" * 8, generator.randbytes(4)))
            )
    return out.getvalue() + b"."


def soups(count: int, run: Callable[[bytes], Any] = pickles.run) -> None:
    generator = random.Random(3)
    for _ in range(count):
        with suppress(Refused):
            run(opcode_soup(generator))


def test_random_programs_end_or_are_refused() -> None:
    soups(20_000)


@pytest.mark.slow
def test_half_a_million_random_programs_end_or_are_refused() -> None:
    soups(500_000)
