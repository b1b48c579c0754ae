"""`--preview`: the growing picture, under the bar on a terminal, or in a file beside the one to come."""

import io
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from aquatint.apps.cli.output import Output
from aquatint.apps.cli.screen import Screen
from aquatint.base import files
from aquatint.base.errors import UserError
from aquatint.pipelines.bundle import Bundle
from aquatint.pipelines.picture import Progress
from aquatint.pipelines.request import Request


class Sketch:
    """A context: leaving it takes the preview's file away, whether the picture came or not."""

    def __init__(self, bundle: Bundle, request: Request, output: Output, screen: Screen) -> None:
        self.bundle, self.screen = bundle, screen
        self.path: Path | None = None
        if not screen.shown:
            if output.folder is None:
                raise UserError("--preview without a terminal, and --out -.", "A terminal, or a folder or file.")
            first = next(output.paths(request.prompt, request.seeds[0]))
            self.path = first.with_name(f"{first.stem}.preview.png")

    def __enter__(self) -> "Sketch":
        return self

    def __exit__(self, *_: object) -> None:
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink()

    def draw(self, progress: Progress) -> None:
        """Show what the latents look like now."""
        latents = progress.x0
        if latents is None:
            return
        if self.path is None:
            self.screen.show(lambda: self.bundle.preview(latents))
        else:
            files.write(self.path, png(self.bundle, latents))


def png(bundle: Bundle, latents: Tensor) -> bytes:
    """A preview as the bytes of a PNG file, at the picture's own size."""
    picture, factor, out = bundle.preview(latents), bundle.autoencoder.config.factor, io.BytesIO()
    picture.resize((latents.shape[3] * factor, latents.shape[2] * factor)).save(out, "PNG")
    return out.getvalue()
