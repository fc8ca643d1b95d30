"""What preloads `weather.c`, and makes the weather."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path


class Weather:
    """The time of day and the disk of every process that has `environment`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library, self._file = folder / "weather.so", folder / "weather"
        source = Path(__file__).with_name("weather.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "WEATHER": str(self._file)}
        self.be()

    def be(self, *, ahead_s: int = 0, fsync_ms: int = 0, write_ms: int = 0) -> None:
        """From now on, in one write: the file is mapped where it is."""
        with self._file.open("r+b" if self._file.exists() else "wb", buffering=0) as out:
            out.write(struct.pack("qqq", ahead_s, fsync_ms, write_ms))
