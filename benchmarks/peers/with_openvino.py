"""OpenVINO on the CPU: static shapes, float32 arithmetic (it would choose bfloat16 by itself where the CPU has it)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.worker import Parts, serve, started


def nets(folder: Path, size: int, threads: int) -> dict[str, Callable[..., Any]]:
    """The four nets, compiled for one size."""
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads
    }  # fmt: skip
    side = size // 8
    shapes = {"unet": [2, 4, side, side], "decoder": [1, 4, side, side], "encoder": [1, 3, size, size]}

    def compiled(name: str) -> Callable[..., Any]:
        model = core.read_model(folder / name / "net.xml")
        if name in shapes:
            model.reshape({"x": shapes[name]})
        ready = core.compile_model(model, "CPU", settings)
        return lambda **inputs: ready(inputs)[0]

    return {name: compiled(name) for name in ("text", "unet", "decoder", "encoder")}


if __name__ == "__main__":
    asked = started()
    ready = nets(asked.folder / "openvino", asked.size, asked.threads)
    serve(asked, Parts(ready, asked, "openvino.png").work())
