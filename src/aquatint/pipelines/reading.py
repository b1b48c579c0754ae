"""What a picture's file of another program stands for, whoever wrote it."""

from aquatint.base.errors import UserError
from aquatint.pipelines.a1111 import read_a1111
from aquatint.pipelines.comfyui import read_comfyui
from aquatint.pipelines.foreign import Reading
from aquatint.pipelines.invokeai import read_invokeai, read_sd_metadata
from aquatint.pipelines.metadata import Found


def read_foreign(found: Found) -> Reading | None:
    """What other programs wrote, as a Reading; None if nobody wrote anything that is known.

    Where several wrote, the first that can be read counts: ComfyUI's graph, InvokeAI's metadata, then the infotext,
    which other programs add for sites to read. Raises the UserError of the first if none can be read.
    """
    texts, why = found.texts, None
    readers = [
        ("prompt" in texts or "workflow" in texts, lambda: read_comfyui(texts.get("prompt"), texts.get("workflow"))),
        ("invokeai_metadata" in texts, lambda: read_invokeai(texts["invokeai_metadata"])),
        ("sd-metadata" in texts, lambda: read_sd_metadata(texts["sd-metadata"])),
        (found.infotext is not None, lambda: read_a1111(found.infotext or "")),
    ]
    for there, read in readers:
        if there:
            try:
                return read()
            except UserError as error:
                why = why or error
    if why is not None:
        raise why
    return None
