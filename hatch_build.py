"""What `pip install` does beside copying: the CPU kernels are compiled, where a compiler is, and go along.

Without one the package is pure Python; it then looks for a compiler where it runs (aquatint/engines/kernels/build.py).
"""

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Kernels(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the library into the package, and names the wheel after this machine."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the files are gathered."""
        if self.target_name != "wheel":
            return
        sys.path.insert(0, str(Path(self.root) / "src"))
        try:
            from aquatint.engines.kernels.build import CARRIED, carry
        finally:
            sys.path.pop(0)
        made = carry()
        if made.library is None:
            self.app.display_warning(f"The CPU kernels are left out: {made.reason}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["artifacts"].append(f"/{CARRIED.relative_to(self.root)}/*")
        build_data |= {"pure_python": False, "tag": f"py3-none-{platform}"}
