"""Where and how the nets compute: device, number format, threads, and the facts that decide whether bits repeat."""

import ctypes
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from aquatint.base.errors import UserError, unknown

NUMERICS = 2  # raised by every change of this code that may change the bits of a picture
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
# mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_TOP_PAD, in bytes
_MALLOPT = {-1: 2**31 - 1, -3: 2**31 - 1, -2: 2**26}


@dataclass(frozen=True)
class Key:
    """What a picture's bits depend on besides weights and request: equal keys promise equal bits.

    device is the class ("cpu", or the GPU's name), isa its instruction set as torch uses it, threads the number that
    share one operation (their partial sums are added in an order that depends on it), mode "exact": every picture is
    computed alone, in one shape. engine says whose kernels computed: "torch", or ours with their version and
    instruction set (engines/choice.py).
    """

    numerics: int
    torch: str
    device: str
    isa: str
    dtype: str
    threads: int
    mode: str = "exact"
    engine: str = "torch"


def choose_device(name: str = "auto") -> torch.device:
    """The device for a name: "auto" takes CUDA (ROCm), MPS, XPU or the CPU, the first of them; "cuda:1" one card."""
    kind = name.split(":")[0]
    if kind not in DEVICES or (":" in name and not name.partition(":")[2].isdecimal()):
        raise unknown("device", name, DEVICES)
    if kind == "auto":
        there = {"cuda": _has_cuda(), "mps": torch.backends.mps.is_available(), "xpu": torch.xpu.is_available()}
        return torch.device(next((kind for kind, is_there in there.items() if is_there), "cpu"))
    if kind == "cuda":
        index = int(name.partition(":")[2] or 0)
        if not _has_cuda() or index >= torch.cuda.device_count():
            raise UserError(
                f'Device "{name}" is not here.', f"CUDA devices that torch sees: {_cuda_count()}.", "Use cpu."
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError('Device "mps" is not here.', "An Apple GPU and a torch built for it.", "Use cpu.")
    if kind == "xpu":
        count = torch.xpu.device_count() if torch.xpu.is_available() else 0
        if int(name.partition(":")[2] or 0) >= count:
            raise UserError(f'Device "{name}" is not here.', f"XPU devices that torch sees: {count}.", "Use cpu.")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format for a name: "auto" is float16 on CUDA, float32 elsewhere."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise unknown("dtype", name, ("auto", *DTYPES))
    return DTYPES[name]


def choose_threads(count: int | None = None) -> int:
    """How many threads share one operation: `count`, else AQUATINT_THREADS, else torch's own choice."""
    given = os.environ.get("AQUATINT_THREADS", "") if count is None else str(count)
    if not given:
        return torch.get_num_threads()
    if not given.isdecimal() or not 1 <= int(given) <= 1024:
        raise UserError(f'"{given}" threads.', "A whole number from 1 to 1024.")
    return int(given)


def read_bytes(text: str) -> int:
    """ "6GB" -> 6,000,000,000; also k, M, T, with or without B, and KiB, MiB, GiB, TiB for powers of 1024."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kKMGT])(i?)B?|B)?", text.strip())
    if not match:
        raise UserError(f'"{text[:40]}" bytes.', "A number with its unit, as in 6GB or 800MiB.")
    power = 0 if match[2] is None else "KMGT".index(match[2].upper()) + 1
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def free_memory() -> int:
    """Bytes that this process could take now: what the system calls available, within the limit of its cgroup.

    Half of what is built in, where the system does not say; 0 where nothing is known.
    """
    free = [_number(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    for most, used in _cgroup_files():
        limits = [_number(line) for path in (most, used) for line in _lines(path)[:1]]
        if len(limits) == 2 and limits[0]:
            free.append(max(limits[0] - limits[1], 0))
    if free:
        return min(free)
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if "SC_PHYS_PAGES" in names else 0


def _cgroup_files() -> Iterator[tuple[str, str]]:
    """Files with the limit of this process's cgroup and with what is used of it: its own, and those of the root."""
    for line in ["::/", *_lines("/proc/self/cgroup")]:
        _, kinds, path = line.split(":", 2)
        folder = path.rstrip("/")
        if not kinds:  # version 2
            yield f"/sys/fs/cgroup{folder}/memory.max", f"/sys/fs/cgroup{folder}/memory.current"
        if not kinds or "memory" in kinds.split(","):
            root = f"/sys/fs/cgroup/memory{folder}/memory."
            yield f"{root}limit_in_bytes", f"{root}usage_in_bytes"


def _lines(path: str) -> list[str]:
    """A small file of the system's, in lines; none where there is none."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _number(text: str) -> int:
    """A number; 0 for a word ("max")."""
    return int(text) if text.strip().isdecimal() else 0


@contextmanager
def exact(device: torch.device, threads: int) -> Iterator[None]:
    """Within, torch computes as a picture's key says, whatever the caller had set; afterwards as before.

    No gradients; one operation is shared among `threads` threads; on CUDA nothing is timed to choose a kernel, and
    float32 is not quietly shortened to TF32 (or bfloat16), neither in convolutions nor in products of matrices.
    """
    before = torch.get_num_threads()
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.no_grad(), _whole_products(), cudnn if device.type == "cuda" else nullcontext():
        if before != threads:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            if before != threads:
                torch.set_num_threads(before)


@cache
def keep_pages() -> bool:
    """Have this process keep the memory that it frees, for its next tensors; whether that can be had here.

    By its own choice glibc gives every large block back to the system and gets it anew, zeroed page by page: in a
    guided step of Stable Diffusion 1.5 at 512 x 512 these are 738,000 page faults and a tenth of the time.
    `return_pages` gives back what is free. Other C libraries are left as they are.
    """
    if _LIBC is None or not hasattr(_LIBC, "mallopt"):
        return False
    return all(_LIBC.mallopt(option, value) for option, value in _MALLOPT.items())


def return_pages() -> None:
    """Give the memory that `keep_pages` kept and nobody uses back to the system."""
    if _LIBC is not None and hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def key(device: torch.device, dtype: torch.dtype, count: int, engine: str = "torch") -> Key:
    """The reproduction key of this process for one device, number format, thread count and engine."""
    name, isa = "cpu", torch.backends.cpu.get_cpu_capability()
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name, isa = torch.cuda.get_device_name(device), f"sm_{major}{minor}"
    elif device.type == "mps":
        name = f"mps {platform.mac_ver()[0]}"
    elif device.type == "xpu":
        name = torch.xpu.get_device_name(device)
    kind = str(dtype).removeprefix("torch.")
    return Key(NUMERICS, str(torch.__version__), name, isa, kind, count, engine=engine)


@contextmanager
def _whole_products() -> Iterator[None]:
    """Products of float32 matrices in float32; afterwards as before, by whichever of torch's two settings it was."""
    newer = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    kept = [backend.fp32_precision for backend in newer]
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # how torch says that the newer setting was used
        older = None
    if older == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)
        for backend, precision in zip(newer, kept, strict=True):
            backend.fp32_precision = precision


def _has_cuda() -> bool:
    with warnings.catch_warnings():  # a CUDA build of torch without a driver warns; "no" is all the answer we need
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def _cuda_count() -> int:
    return torch.cuda.device_count() if _has_cuda() else 0
