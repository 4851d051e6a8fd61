"""The codecs under atheris, which looks for inputs that reach new code: `scripts/fuzz --codecs SECONDS`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from servekit.codecs import v2

# What each run feeds to the codecs.
CODECS = {
    "json": "application/json",
    "json lines": "application/jsonlines",
    "csv": "text/csv",
    "npy": "application/x-npy",
    "npz": "application/x-npz",
    "multipart": "multipart/form-data; boundary=x",
    "urlencoded": "application/x-www-form-urlencoded",
    "image": "image/png",
    "tensors": f"{v2.BINARY};json-header-size=64",
}
MAX_BYTES = 4096
# Per input: seconds, and MiB of the whole process.
TIMEOUT_S = 5
RSS_LIMIT_MIB = 1024


def main(seconds: float, seed: int) -> int:
    """Each codec in a process of its own, for so many seconds. Returns the exit code."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        print(f"skipped: atheris is not installed; `pip install atheris`, if it has a wheel for Python {version}")
        return 0
    failed = []
    for name in CODECS:
        arguments = [sys.executable, "-P", "-m", "fuzzing.codecs", name, str(int(seconds)), str(seed)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, errors="replace")
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        print(
            f"{name}: {'ok' if done.returncode == 0 else f'exit code {done.returncode}'} {' '.join(last)}", flush=True
        )
        if done.returncode:
            failed.append(name)
            print(done.stderr[-4000:])
    return 1 if failed else 0


def fuzz(name: str, seconds: str, seed: str) -> None:
    """This process: never returns."""
    import atheris

    with atheris.instrument_imports(include=["servekit.codecs"], enable_loader_override=False):
        for module in [name for name in sys.modules if name.startswith("servekit.codecs") or name == "fuzzing.bodies"]:
            del sys.modules[module]
        from fuzzing import bodies

    content_type = CODECS[name]

    def once(data: bytes) -> None:
        bodies.attempt(content_type, data)

    options = [f"-max_total_time={seconds}", f"-seed={int(seed) + 1}", f"-max_len={MAX_BYTES}", f"-timeout={TIMEOUT_S}"]
    atheris.Setup([sys.argv[0], *options, f"-rss_limit_mb={RSS_LIMIT_MIB}", f"-artifact_prefix={Path.cwd()}/"], once)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(*sys.argv[1:4])
