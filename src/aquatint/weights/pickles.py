"""Pickles read as data, in a closed world: what a program of theirs can build here is dicts, lists, numbers, texts and
references to tensors, and nothing else.

A pickle is a program for a small stack machine, and Python's own interpreter of it calls whatever the program names.
This one has the opcodes that checkpoints need, and a table of the names that they use, each standing for a value of
ours. No name is imported, no function of theirs is called; a name outside the table ends the reading. Every opcode and
every value that one copies is counted, and keys are short and cannot be made to share a hash: so time and memory are
bounded.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aquatint.weights.header import RANK

LONGEST = 16 * 2**20  # bytes of program; Stable Diffusion XL's has 0.4 million
MOST_STEPS = 1_000_000  # opcodes, and values that one copies; a tensor takes 30
DEEPEST = 100_000  # values on the stack, and marks
LONGEST_INT = 128  # bytes
LONGEST_NAME = 1_000  # letters of a key or a global


class Refused(ValueError):
    """Why a pickle is not read, in words that follow "because"."""


@dataclass(frozen=True)
class Named:
    """A global of the pickle's, which stands for nothing but its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Opaque:
    """An object of a class that trainers leave in their checkpoints; what it holds is not looked at."""

    kind: Named


@dataclass(frozen=True)
class Storage:
    """A run of `count` numbers under a key."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class Stored:
    """A tensor: which storage, from which number on, its shape and its strides in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Budget:
    """Steps that one file may take; the pickles of the older layout share theirs."""

    def __init__(self, steps: int = MOST_STEPS) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Take some, or raise Refused."""
        self.left -= steps
        if self.left < 0:
            raise Refused("its pickle takes more steps than any checkpoint's")


def run(program: bytes | memoryview, start: int = 0, budget: Budget | None = None) -> tuple[Any, int]:
    """(the value that a pickle describes, where its program ends); raises Refused.

    Values are None, bool, int, float, str, bytes, list, tuple, dict, Stored, Storage, Named and Opaque.
    """
    return _Machine(program, start, budget or Budget()).run()


class _Machine:
    """The stack machine: a program, where it stands in it, a stack with marks, a memo."""

    def __init__(self, program: bytes | memoryview, at: int, budget: Budget) -> None:
        self.program, self.at, self.budget = program, at, budget
        self.end = min(len(program), at + LONGEST)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> tuple[Any, int]:
        while True:
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                if len(self.stack) != 1 or self.marks:
                    raise Refused("its pickle does not end with one value")
                return self.stack[0], self.at
            action = _ACTIONS.get(code)
            if action is None:
                raise Refused(f"its pickle has the opcode {code:#04x}, which no checkpoint needs")
            action(self)
            self.budget.spend(1)
            if max(len(self.stack), len(self.marks)) > DEEPEST:
                raise Refused("its pickle holds more values at once than any checkpoint")

    def take(self, count: int) -> bytes:
        """The next bytes of the program."""
        if count < 0 or self.at + count > self.end:
            raise Refused(f"its pickle breaks off, or has more than {LONGEST:,} bytes")
        self.at += count
        return bytes(self.program[self.at - count : self.at])

    def number(self, form: str) -> int:
        """The next whole number, in struct's terms."""
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def line(self) -> str:
        """Text up to the end of the line."""
        for place in range(self.at, min(self.end, self.at + 1024)):
            if self.program[place] == 0x0A:
                return _text(self.take(place + 1 - self.at)[:-1])
        raise Refused("its pickle has a name without an end")

    def pop(self) -> Any:
        if not self.stack or (self.marks and self.marks[-1] >= len(self.stack)):
            raise Refused("its pickle takes a value that is not there")
        return self.stack.pop()

    def top(self) -> Any:
        self.push(value := self.pop())
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        """The values since the last mark, off the stack."""
        if not self.marks:
            raise Refused("its pickle takes a mark that is not there")
        place = self.marks.pop()
        values = self.stack[place:]
        del self.stack[place:]
        return values

    def remember(self, key: int) -> None:
        self.memo[key] = self.top()

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise Refused("its pickle recalls a value that it did not keep")
        self.push(self.memo[key])

    def fill(self, pairs: list[Any]) -> None:
        """Put pairs, one value after the other, into the dict on top."""
        target = self.top()
        if type(target) is not dict or len(pairs) % 2:
            raise Refused("its pickle sets items of what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_key(key)] = value

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise Refused("its pickle appends to what is no list")
        target.extend(values)

    def call(self, args: Any, function: Any) -> None:
        """What calling a global of the table means; the arguments are values of ours."""
        if type(args) is not tuple:
            raise Refused("its pickle calls something without arguments")
        if isinstance(function, Opaque) or not isinstance(function, Named):
            raise Refused("its pickle calls what is no known name")
        meaning = _CALLS.get(str(function))
        if meaning is not None:
            self.budget.spend(sum(len(part) for part in args if type(part) is list))
            self.push(meaning(args))
        elif _is_opaque(function):
            self.push(Opaque(function))
        else:
            raise Refused(f"its pickle calls {function}")

    def build(self) -> None:
        """State for the object below it: nothing that we read has any."""
        self.pop()
        if not isinstance(self.top(), Opaque | dict | Stored):
            raise Refused("its pickle gives a state to what can have none")

    def named(self, module: str, name: str) -> None:
        made = Named(module, name)
        if len(module) + len(name) > LONGEST_NAME:
            raise Refused("its pickle names something at great length")
        if str(made) not in _KNOWN and not _is_opaque(made):
            raise Refused(f"its pickle names {str(made)[:120]}, which no checkpoint needs")
        self.push(made)

    def stack_named(self) -> None:
        name, module = self.pop(), self.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("its pickle names something by what is no text")
        self.named(module, name)

    def persistent(self) -> None:
        """A storage: ("storage", type, key, place, count) as torch writes it."""
        told = self.pop()
        if type(told) is not tuple or len(told) not in (5, 6) or told[0] != "storage":
            raise Refused("its pickle refers to something that is no storage")
        kind, key, count = told[1], told[2], told[4]
        if not isinstance(kind, Named) or str(kind) not in STORAGES:
            raise Refused("its pickle has a storage of no known type")
        if type(key) is not str or type(count) is not int or not 0 <= count < 2**40:
            raise Refused("its pickle has a storage of no sound size")
        if len(told) == 6 and told[5] is not None:
            raise Refused("its pickle has a storage that is a part of another, as torch wrote them until 2017")
        self.push(Storage(STORAGES[str(kind)], key, count))


def _key(key: Any) -> Any:
    """A dict's key: short and flat, for hashing and comparing are not counted, and numbers whose hashes differ."""
    if key is None or isinstance(key, Named | Opaque):
        return key
    if isinstance(key, str | bytes) and len(key) <= LONGEST_NAME:
        return key
    if isinstance(key, int) and abs(key) < 2**31:
        return key
    if type(key) is tuple and len(key) <= 4 and all(isinstance(part, str | int) and _key(part) == part for part in key):
        return key
    raise Refused(f"its pickle has a {type(key).__name__} as a key, or a long one")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("its pickle has a text that is not UTF-8") from None


def _old_text(data: bytes) -> str:
    """A Python 2 string."""
    return data.decode("latin-1")


def _long(machine: _Machine, count: int) -> None:
    if not 0 <= count <= LONGEST_INT:
        raise Refused("its pickle has an absurd number")
    machine.push(int.from_bytes(machine.take(count), "little", signed=True))


def _rebuilt(args: tuple[Any, ...]) -> Stored:
    """torch._utils._rebuild_tensor(_v2): storage, offset, size, stride; checked to lie inside the storage."""
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise Refused("its pickle has a tensor without a storage")
    storage, offset, shape, stride = args[:4]
    if type(shape) is not tuple or type(stride) is not tuple or len(shape) != len(stride) or len(shape) > RANK:
        raise Refused("its pickle has a tensor without a sound shape")
    if not all(type(number) is int and 0 <= number < 2**40 for number in (offset, *shape, *stride)):
        raise Refused("its pickle has a tensor without a sound shape")
    count, last = 1, offset
    for side, step in zip(shape, stride, strict=True):
        count *= side
        last += (side - 1) * step
    if count > storage.count or (count and last >= storage.count) or offset > storage.count:
        raise Refused("its pickle has a tensor that reaches out of its storage")
    return Stored(storage, offset, shape, stride)


def _first(args: tuple[Any, ...]) -> Any:
    """torch._utils._rebuild_parameter: the tensor itself."""
    if not args or not isinstance(args[0], Stored):
        raise Refused("its pickle has a parameter without a tensor")
    return args[0]


def _ordered(args: tuple[Any, ...]) -> dict[Any, Any]:
    """collections.OrderedDict, empty or from pairs."""
    if not args:
        return {}
    if (
        len(args) != 1
        or type(args[0]) is not list
        or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in args[0])
    ):
        raise Refused("its pickle has a dict of no pairs")
    return {_key(key): value for key, value in args[0]}


def _inert(name: str) -> Callable[[tuple[Any, ...]], Opaque]:
    module, _, leaf = name.rpartition(".")
    return lambda args: Opaque(Named(module, leaf))


def _is_opaque(name: Named) -> bool:
    return name.module.partition(".")[0] in TRAINERS


# Programs whose objects lie in checkpoints of their time, beside the weights.
TRAINERS = ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf")
STORAGES: Mapping[str, str] = {
    **{
        f"torch.{name}Storage": dtype
        for name, dtype in {
            "Double": "F64",
            "Float": "F32",
            "Half": "F16",
            "BFloat16": "BF16",
            "Long": "I64",
            "Int": "I32",
            "Short": "I16",
            "Char": "I8",
            "Byte": "U8",
            "Bool": "BOOL",
        }.items()
    },
    "torch.storage.UntypedStorage": "U8",
}
_INERT = (
    "torch.Size",
    "torch.device",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.dtype",
    "_codecs.encode",
    "builtins.set",
    "__builtin__.set",
)
_CALLS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor_v2": _rebuilt,
    "torch._utils._rebuild_tensor": _rebuilt,
    "torch._utils._rebuild_parameter": _first,
    "collections.OrderedDict": _ordered,
    **{name: _inert(name) for name in _INERT},
}
_DTYPES = [f"torch.{name}" for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")]
_KNOWN = frozenset([*_CALLS, *STORAGES, *_DTYPES, "numpy.ndarray"])

_ACTIONS: Mapping[int, Callable[[_Machine], None]] = {
    0x80: lambda m: _protocol(m.number("<B")),  # PROTO
    0x95: lambda m: _none(m.number("<Q")),  # FRAME
    0x28: lambda m: m.marks.append(len(m.stack)),  # MARK
    0x30: lambda m: _none(m.pop()),  # POP
    0x31: lambda m: _none(m.since_mark()),  # POP_MARK
    0x4E: lambda m: m.push(None),  # NONE
    0x88: lambda m: m.push(True),  # NEWTRUE
    0x89: lambda m: m.push(False),  # NEWFALSE
    0x4B: lambda m: m.push(m.number("<B")),  # BININT1
    0x4D: lambda m: m.push(m.number("<H")),  # BININT2
    0x4A: lambda m: m.push(m.number("<i")),  # BININT
    0x8A: lambda m: _long(m, m.number("<B")),  # LONG1
    0x8B: lambda m: _long(m, m.number("<i")),  # LONG4
    0x47: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),  # BINFLOAT
    0x58: lambda m: m.push(_text(m.take(m.number("<I")))),  # BINUNICODE
    0x8C: lambda m: m.push(_text(m.take(m.number("<B")))),  # SHORT_BINUNICODE
    0x8D: lambda m: m.push(_text(m.take(m.number("<Q")))),  # BINUNICODE8
    0x54: lambda m: m.push(_old_text(m.take(m.number("<i")))),  # BINSTRING
    0x55: lambda m: m.push(_old_text(m.take(m.number("<B")))),  # SHORT_BINSTRING
    0x42: lambda m: m.push(m.take(m.number("<I"))),  # BINBYTES
    0x43: lambda m: m.push(m.take(m.number("<B"))),  # SHORT_BINBYTES
    0x8E: lambda m: m.push(m.take(m.number("<Q"))),  # BINBYTES8
    0x7D: lambda m: m.push({}),  # EMPTY_DICT
    0x5D: lambda m: m.push([]),  # EMPTY_LIST
    0x29: lambda m: m.push(()),  # EMPTY_TUPLE
    0x74: lambda m: m.push(tuple(m.since_mark())),  # TUPLE
    0x85: lambda m: m.push((m.pop(),)),  # TUPLE1
    0x86: lambda m: m.push((m.pop(), m.pop())[::-1]),  # TUPLE2
    0x87: lambda m: m.push((m.pop(), m.pop(), m.pop())[::-1]),  # TUPLE3
    0x6C: lambda m: m.push(m.since_mark()),  # LIST
    0x73: lambda m: m.fill([m.pop(), m.pop()][::-1]),  # SETITEM
    0x75: lambda m: m.fill(m.since_mark()),  # SETITEMS
    0x61: lambda m: m.extend([m.pop()]),  # APPEND
    0x65: lambda m: m.extend(m.since_mark()),  # APPENDS
    0x71: lambda m: m.remember(m.number("<B")),  # BINPUT
    0x72: lambda m: m.remember(m.number("<I")),  # LONG_BINPUT
    0x94: lambda m: m.remember(len(m.memo)),  # MEMOIZE
    0x68: lambda m: m.recall(m.number("<B")),  # BINGET
    0x6A: lambda m: m.recall(m.number("<I")),  # LONG_BINGET
    0x63: lambda m: m.named(m.line(), m.line()),  # GLOBAL
    0x93: lambda m: m.stack_named(),  # STACK_GLOBAL
    0x52: lambda m: m.call(m.pop(), m.pop()),  # REDUCE
    0x81: lambda m: m.call(m.pop(), m.pop()),  # NEWOBJ
    0x62: lambda m: m.build(),  # BUILD
    0x51: lambda m: m.persistent(),  # BINPERSID
}


def _protocol(number: int) -> None:
    if not 2 <= number <= 5:
        raise Refused(f"its pickle has protocol {number}, and 2 to 5 are read")


def _none(value: Any) -> None:
    """Drop a value."""
