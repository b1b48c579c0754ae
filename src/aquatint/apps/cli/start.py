"""A quick start for commands that paint: what happens before torch is there, beside its import, or not at all.

Of four processor seconds for a picture of the carried model, two were start and end, and much of that was this
(docs/decisions/011): the garbage collector, which walks again and again over the objects that `import torch` makes,
none of them garbage; and libtorch, which the system links for 0.2 s while nothing else happens. None of it touches a
number. `import aquatint` does nothing of the kind: a program's imports are its own.
"""

import atexit
import gc
import importlib.util
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from aquatint import __file__ as _PACKAGE

PAINTING = ("generate", "again", "grid")
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
