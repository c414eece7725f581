"""Resolve core.in and dev.in, and write the exact set that this environment would install to core.txt and dev.txt."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def resolve(*names: str) -> dict[str, str]:
    """name -> version of everything that the given .in files need together, installed or not."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
        command += ["--report", report.name]
        for name in names:
            command += ["-r", str(HERE / name)]
        subprocess.run(command, check=True)
        found = json.loads(Path(report.name).read_text())["install"]
    return {item["metadata"]["name"]: item["metadata"]["version"].partition("+")[0] for item in found}


def write(name: str, pins: dict[str, str], source: str) -> None:
    lines = [f"# Made from {source} by `make lock`. Python 3.11, Linux."]
    lines += [f"{package}=={version}" for package, version in sorted(pins.items(), key=lambda pin: pin[0].lower())]
    (HERE / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    both = resolve("core.in", "dev.in")
    core = {package: both[package] for package in resolve("core.in")}
    write("core.txt", core, "core.in")
    write("dev.txt", {p: v for p, v in both.items() if p not in core}, "dev.in")
