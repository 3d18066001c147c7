"""Says before anything is downloaded what would go wrong, with the command that helps.

`make` runs it with the Python that it would build the environment of, which may be too old for
anything else here: it keeps to what Python 3.6 understands and to the standard library.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile

OLDEST, NEWEST = (3, 11), (3, 13)
GIGABYTE = 1e9
CPU_GIGABYTES, CUDA_GIGABYTES = 4, 11
"""What environment, downloads and converted model take, about, by torch's build."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def unsupported(version: "tuple[int, ...]", executable: str, found: "list[str]") -> str:
    """Return what is wrong with a Python, "" where nothing is.

    - `version`: major and minor.
    - `found`: commands of this machine that would do.
    """
    if OLDEST <= version[:2] <= NEWEST:
        return ""
    if found:
        helps = f"run `make look PYTHON={found[0]}`"
    else:
        helps = "install one (apt install python3.11, uv python install 3.13, pyenv install 3.13)"
        helps += " and run `make look PYTHON=python3.13`"
    return (
        f"{executable} is Python {'.'.join(map(str, version))}; 3.{OLDEST[1]} to 3.{NEWEST[1]} "
        f"are supported: {helps}"
    )


def supported_commands() -> "list[str]":
    """Return the commands on the path that start a supported Python, the newest first."""
    names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    return [name for name in names if _output(name, "-c", "import sys").ok]


def without_venv() -> str:
    """Return what is wrong where Python came without `venv`, as Debian's does."""
    try:
        import ensurepip
        import venv
    except ImportError:
        return (
            "this Python has no venv: run `apt install python3-venv`, or pass another one, "
            "`make look PYTHON=python3.12`"
        )
    del ensurepip, venv
    return ""


def too_full(folder: str, free: float, needed: float) -> str:
    """Return what is wrong with a disk of so many free gigabytes, "" where nothing is."""
    if free >= needed:
        return ""
    return (
        f"{folder} has {free:.1f} GB free and setting up takes about {needed} GB: free some, or "
        "put the environment elsewhere, `make look VENV=/a/larger/disk/venv`"
    )


def free_gigabytes(folder: str) -> float:
    """Return how much is free on the disk of a folder that may not exist yet."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder) or "."
    return shutil.disk_usage(folder).free / GIGABYTE


def brings_cuda(system: str, has_gpu: bool, pip_settings: str) -> bool:
    """Whether pip would take torch's CUDA build on a machine that has no use for it.

    - `pip_settings`: what ``pip config list`` prints, and pip's variables.
    """
    if system != "Linux" or has_gpu or "whl/cpu" in pip_settings:
        return False
    folders = [word.strip("'\",") for word in pip_settings.replace("=", " ").split()]
    return not any(
        name.startswith("torch-") and "+cpu" in name
        for folder in folders
        if os.path.isdir(folder)
        for name in os.listdir(folder)
    )


def has_nvidia_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU with a driver."""
    return os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi") is not None


def pip_settings() -> str:
    """Return pip's settings as text: its files' and the environment's."""
    variables = " ".join(value for name, value in os.environ.items() if name.startswith("PIP_"))
    return variables + "\n" + _output(sys.executable, "-m", "pip", "config", "list").text


class _Output:
    def __init__(self, ok: bool, text: str) -> None:
        self.ok, self.text = ok, text


def _output(*command: str) -> _Output:
    try:
        text = subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return _Output(False, "")
    return _Output(True, text.decode("utf-8", "replace"))


def main(environment: str) -> int:
    """Print what is wrong, a line each; return 1 where setting up cannot succeed."""
    wrong = unsupported(sys.version_info[:3], sys.executable, supported_commands())
    if wrong:
        print(f"kvclaims: {wrong}", file=sys.stderr)
        return 1
    cuda = brings_cuda(platform.system(), has_nvidia_gpu(), pip_settings())
    if cuda:
        print(
            "kvclaims: torch comes as its CUDA build here, about 7 GB with its libraries, and no "
            "NVIDIA GPU is found. The CPU build takes 0.7 GB: stop this (Ctrl-C) and run\n"
            f"    PIP_EXTRA_INDEX_URL={CPU_INDEX} make look",
            file=sys.stderr,
        )
    folder = os.path.abspath(environment)
    needed = CUDA_GIGABYTES if cuda or has_nvidia_gpu() else CPU_GIGABYTES
    wrong = without_venv() or too_full(folder, free_gigabytes(folder), needed)
    wrong = wrong or too_full(tempfile.gettempdir(), free_gigabytes(tempfile.gettempdir()), 1)
    if wrong:
        print(f"kvclaims: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
