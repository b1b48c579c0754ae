"""Compile every kernel for two kinds of card, and print what the compiler says: run by test_triton.py."""

import json
import re
import subprocess
import tempfile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from aquatint.engines import triton_kernels, triton_norm

BLOCK = {"LONG": triton_norm.BLOCK[0], "GB": 8, "WP": 16, "ADD": True}  # 320 channels in 32 groups
SMALL = {"LONG": triton_norm.SMALL_BLOCK[0], "GB": 1, "WP": 64, "ADD": True}  # 1280
FLAT = {"ROWS": triton_kernels.ROWS, "COLUMNS": triton_kernels.COLUMNS}
KERNELS: list[tuple[Any, dict[str, Any], int]] = [
    (triton_norm._norm_small, SMALL | {"SILU": True}, 8),
    (triton_norm._norm_parts, BLOCK, 8),
    (triton_norm._norm_whole, {"LONG": triton_norm.BLOCK[0], "GB": 8}, 4),
    (triton_norm._norm_written, BLOCK | {"SILU": True}, 8),
    (triton_kernels._geglu, FLAT, 4),
    (triton_kernels._sum, FLAT | {"BIAS": True}, 4),
    (triton_kernels._conv_parts, dict(zip(("BM", "BN", "BK"), triton_kernels.TILE, strict=True)) | {"TAPS": 3}, 8),
    (triton_kernels._conv_sum, FLAT | {"BIAS": True}, 4),
]
SHORT = (triton_kernels._shortened, {"WIDE": 2048}, 4)  # 8-bit floats: not on an A100
HALVES, WIDE = ("x", "add", "weight", "bias", "y", "a", "b"), ("parts", "whole", "scale")


def compiled(kernel: Any, constants: dict[str, Any], warps: int, architecture: int) -> dict[str, Any]:
    """Size, registers, and bytes of stack (which registers are spilled to) of one kernel for one kind of card."""
    short = kernel is SHORT[0]
    kinds = dict.fromkeys(HALVES, "*bf16") | dict.fromkeys(WIDE, "*fp32") | {"eps": "fp32"}
    kinds |= {"y": "*fp8e4nv"} if short else {}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in kernel.arg_names}
    aligned = {
        (at,): [["tt.divisibility", 16]] for at, name in enumerate(kernel.arg_names) if signature[name][0] == "*"
    }
    stages = 3 if "BM" in constants else 2
    made = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ((registers, stack),) = re.findall(r"REG:(\d+) STACK:(\d+)", said)
    row = {"kernel": kernel.__name__, "for": architecture, "bytes": len(made.asm["cubin"])}
    return {**row, "registers": int(registers), "stack": int(stack)}


if __name__ == "__main__":
    rows = [compiled(*kernel, architecture) for architecture in (80, 90) for kernel in KERNELS]
    print(json.dumps([*rows, compiled(*SHORT, 90)]))
