"""ONNX Runtime on the CPU, all of its graph optimisations on, sizes fixed when the nets are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.worker import Parts, serve, started


def nets(folder: Path, size: int, threads: int) -> dict[str, Callable[..., Any]]:
    """The four nets."""
    import onnxruntime

    def session(name: str) -> Callable[..., Any]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        side = size if name == "encoder" else size // 8
        for dimension in ("height", "width"):
            options.add_free_dimension_override_by_name(dimension, side)
        ready = onnxruntime.InferenceSession(folder / name / "net.onnx", options, providers=["CPUExecutionProvider"])
        return lambda **inputs: ready.run(None, inputs)[0]

    return {name: session(name) for name in ("text", "unet", "decoder", "encoder")}


if __name__ == "__main__":
    asked = started()
    ready = nets(asked.folder / "onnxruntime", asked.size, asked.threads)
    serve(asked, Parts(ready, asked, "onnxruntime.png").work())
