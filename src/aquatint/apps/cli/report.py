"""`aquatint report`: the page of a training run, finished or not."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def report(
    run: Annotated[Path, Parameter(help="The run's folder.")],
    /,
) -> None:
    """Write report.html into a run's folder: curves, sheets, settings and cost; `aquatint train` does so at its end."""
    from aquatint.evaluation import course

    print(course.write(run.expanduser()))
