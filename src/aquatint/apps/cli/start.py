"""A quick start for commands that paint: what happens before torch is there, beside its import, or not at all.

Of four processor seconds for a picture of the carried model, two were start and end, and half of those were these
(docs/decisions/010): the garbage collector, which walks again and again over the objects that `import torch` makes,
none of them garbage; torch's meta registrations, which only its compiler needs; and libtorch, which the system links
for 0.2 s while nothing else happens. None of it touches a number. `import aquatint` does nothing of the kind: a
program's imports are its own.
"""

import atexit
import gc
import importlib.util
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from aquatint import __file__ as _PACKAGE

PAINTING = ("generate", "again", "grid")
METAS, DECOMPOSITIONS = "torch._meta_registrations", "torch._decomp"
NEEDED = (DECOMPOSITIONS, "torch._refs", "torch._prims", "torch.utils._content_store")
KNOWN = "2.13."  # torch's versions in which it was looked at who needs them
WAITING = "_waiting"  # where a module that waits keeps its loader
LINKED = ("libtorch_global_deps.so", "libtorch_cpu.so")  # in torch's own order; the first for all to see
MANY = ("libtorch_cuda.so", "libtorch_hip.so")  # builds with these look for more libraries before they link
PIECE = 2**22  # bytes; Linux reads no more ahead for one word of advice
LARGEST = 2**32  # bytes that are read ahead at most
WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt")


class _Start:
    """What `begin` changed and `end` changes back."""

    linking: threading.Thread | None = None


def begin(arguments: Sequence[str]) -> None:
    """Start quickly, if these are the words of a command that paints and torch is not there yet."""
    if not arguments or arguments[0] not in PAINTING or {"--help", "-h"} & set(arguments):
        return
    spec = None if "torch" in sys.modules else importlib.util.find_spec("torch")
    if spec is None or _Start.linking is not None:
        return
    gc.disable()
    atexit.register(gc.freeze)  # what is frozen is not walked over once more when the interpreter goes
    if _version().startswith(KNOWN):
        sys.meta_path.insert(0, Deferral())
    places = [Path(place) / "lib" for place in spec.submodule_search_locations or ()]
    _Start.linking = threading.Thread(target=link, args=(places,), name="link")
    _Start.linking.start()


def end() -> None:
    """The model is there: look for garbage again, except among what is there by now."""
    if _Start.linking is not None:
        _Start.linking.join()
        _Start.linking = None
        gc.freeze()
        gc.enable()


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:  # put there by other means than an installer
        return ""


def link(places: Sequence[Path]) -> list[str]:
    """Have the system link libtorch, for `import torch` to find it there; what was linked.

    Where that fails, torch will say why. By dlopen itself: a function of the C library is called without the
    interpreter's lock, and ctypes.CDLL with it.
    """
    if sys.platform != "linux" or any((place / name).exists() for place in places for name in MANY):
        return []
    import ctypes

    open_library = ctypes.CDLL(None).dlopen
    open_library.restype, open_library.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    return [
        name
        for place in places
        for name, scope in zip(LINKED, (os.RTLD_GLOBAL, os.RTLD_LOCAL), strict=True)
        if (place / name).exists() and open_library(os.fsencode(place / name), os.RTLD_NOW | scope)
    ]


def read_ahead(model: str | None) -> None:
    """Have the system read a model's files (None: the carried one's) into its cache while torch is imported."""
    if hasattr(os, "posix_fadvise"):
        source = Path(_PACKAGE).parent / "weights" / "pocket" if model is None else Path(model).expanduser()
        threading.Thread(target=advise, args=(source,), name="ahead", daemon=True).start()


def advise(source: Path) -> int:
    """Tell the system that the weights at a path will be read; how many bytes that are."""
    left = LARGEST
    for path in _weights(source):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue  # opening the model will say it
        try:
            state = os.fstat(descriptor)
            size = min(left, state.st_size) if stat.S_ISREG(state.st_mode) else 0
            for begin in range(0, size, PIECE):
                os.posix_fadvise(descriptor, begin, PIECE, os.POSIX_FADV_WILLNEED)
            left -= size
        finally:
            os.close(descriptor)
    return LARGEST - left


def _weights(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    elif source.is_dir():
        yield from sorted(path for path in source.glob("**/*") if path.suffix in WEIGHTS)


class Deferral(MetaPathFinder):
    """Finds torch's meta registrations, and puts off carrying them out until they are needed.

    They say which shape an operation's result has where nothing is computed, for FakeTensor and the compiler, and with
    the modules that they import first (NEEDED) they are 0.26 of the seconds of `import torch`. Those modules import one
    another in circles that only open this way round: whoever asks for one of them, or for something in the
    registrations, has all of it carried out in torch's own order.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """A spec that waits (METAS), or that hands over what has woken meanwhile (NEEDED); others are not ours."""
        if name == METAS:
            spec = None if DECOMPOSITIONS in sys.modules else PathFinder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Waiting(spec.loader)
            return spec
        if name.startswith(NEEDED) and wake() and (module := sys.modules.get(name)):
            module.__spec__ = ModuleSpec(name, _Handing(module))  # the import system takes it from there
            return module.__spec__
        return None


def wake() -> bool:
    """Carry out the meta registrations, if they wait; whether they did."""
    module = sys.modules.get(METAS)
    real = vars(module).pop(WAITING, None) if module else None
    if module is None or real is None:
        return False
    module.__class__, module.__loader__ = ModuleType, real
    real.exec_module(module)
    return True


class _Waiting(Loader):
    def __init__(self, real: Loader) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[WAITING] = self.real


class _Handing(Loader):
    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _Later(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and wake():  # those are the import system's own questions
            return getattr(self, name)
        raise AttributeError(f"module {METAS!r} has no attribute {name!r}")
