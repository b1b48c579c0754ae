"""The command `aquatint`. Only what `--help` needs is imported here; torch comes when a command asks for it."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aquatint import __version__
from aquatint.apps.cli import start
from aquatint.base.errors import UserError

if TYPE_CHECKING:
    from cyclopts import App

FINE, FAILED, MISUSED, STOPPED = 0, 1, 2, 130  # exit codes
_HERE = "aquatint.apps.cli"
COMMANDS = {
    "generate": ("generate:generate", "Paint pictures for a prompt."),
    "again": ("again:again", "Paint a picture again from its own metadata, and compare."),
    "upscale": ("upscale:upscale", "Enlarge a picture, by a filter or an ESRGAN file."),
    "grid": ("grid:grid", "Paint one request along axes, as a labelled sheet."),
    "sheet": ("sheet:sheet", "Lay pictures out on a contact sheet."),
    "info": ("info:info", "Say all that a picture's file tells of its making."),
    "models": ("models:models", "The models of a folder, or of your own folders, by their heads."),
    "train": ("train:train", "Teach a model a subject, a style or a word from a few pictures."),
    "report": ("report:report", "The page of a training run: curves, sheets, settings, cost."),
    "evaluate": ("evaluate:evaluate", "Measure what a model paints: prompts, distances, copies, with intervals."),
    "data": ("data:app", "Prepare, look at and check data sets for training."),
    "inspect": ("look:inspect", "Say what a picture's or a model's file holds."),
    "convert": ("convert:convert", "Write a model in another format."),
    "prompt": ("prompt:prompt", "Say how a prompt is read, token by token."),
    "loras": ("loras:loras", "The LoRAs and textual inversions of a folder."),
    "merge": ("loras:merge", "Add LoRAs to a model for good."),
    "extract": ("loras:extract", "What one model differs from another by, as a LoRA."),
    "preprocess": ("preprocess:preprocess", "The hint that a control is shown of a picture, and the preprocessors."),
    "vocabulary": ("lists:vocabulary", "The words that the pocket model knows."),
    "samplers": ("lists:samplers", "The samplers: ways from noise to picture."),
    "grids": ("lists:grids", "The grids: which levels of noise a sampler visits."),
    "families": ("lists:families", "The kinds of Stable Diffusion that can be opened."),
    "version": ("lists:version", "Versions, device, and what a picture's bits depend on."),
}


def build() -> "App":
    """The command line with all its commands, none of them imported yet."""
    from cyclopts import App

    app = App(
        name="aquatint",
        help="Stable Diffusion, whole: paint pictures for words, with a small model that is carried along or your own.",
        version=f"aquatint {__version__}",
        suppress_keyboard_interrupt=False,  # main says how it ends
    )
    for name, (place, help) in COMMANDS.items():
        app.command(f"{_HERE}.{place}", name=name, help=help)
    app.register_install_completion_command(help="Install the completion of aquatint's words for your shell.")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 misused, 130 stopped by Ctrl-C.

    A mistake of the user is told in one line, without a traceback. Anything else that goes wrong is a fault of ours:
    it names itself and its place, and shows all of it where AQUATINT_DEBUG is set.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    start.begin(words)
    from cyclopts import CycloptsError

    try:
        result = build()(
            words,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        return result if isinstance(result, int) else FINE
    except CycloptsError as error:
        return _say(f"{str(error).strip()} See aquatint --help.", MISUSED)
    except UserError as error:
        return _say(str(error), MISUSED)
    except KeyboardInterrupt:
        return _say("Stopped.", STOPPED)
    except BrokenPipeError:  # the reader of our output went away; there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return _fault(error)
    finally:
        start.end()


def _say(text: str, code: int) -> int:
    print(f"aquatint: {text}", file=sys.stderr)
    return code


def _fault(error: Exception) -> int:
    """An error that is not the user's: memory that ran out, or a fault of ours."""
    import traceback

    if os.environ.get("AQUATINT_DEBUG"):
        traceback.print_exception(error)
    text = str(error).strip().split("\n")[0]
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return _say("There is not enough memory for this. Try a smaller --size, or --dtype bfloat16.", FAILED)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(place.filename)}:{place.lineno}"
    return _say(
        f"A fault of aquatint's: {type(error).__name__}: {text} ({where}). AQUATINT_DEBUG=1 shows all of it.", FAILED
    )
