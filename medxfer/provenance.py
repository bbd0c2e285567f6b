"""What an audit asks of a result: when, with which command and code, on which machine."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

#: Flags whose values are files, folders or secrets: never in an output, as they may name people.
_PLACES = ("data", "input", "link_table", "output", "plan", "pseudonym_key", "run", "weights")


def provenance() -> dict:
    """Date, command, commit, machine and library versions, as plain JSON values."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }


def command() -> str:
    """The command line, with ``...`` for files, folders and secrets; empty outside a command."""
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    if module is None:
        return ""
    words, hidden = ["python", "-m", module.name.removesuffix(".__main__")], False
    for word in sys.argv[1:]:
        flag = re.fullmatch(r"--?(\w+)(=(.*))?", word, re.DOTALL)
        if flag is None:
            words.append("..." if hidden or os.sep in word or os.path.exists(word) else word)
            hidden = False
            continue
        name, _, value = flag.groups()
        hidden = name in _PLACES and value is None
        if value and (os.sep in value or name in _PLACES) and value not in ("imagenet", "none"):
            word = f"--{name}=..."
        words.append(word)
    return " ".join(words)


def commit() -> str:
    """Commit of the code, with ``+changes`` where files differ from it; empty where unknown."""
    folder = pathlib.Path(__file__).parent

    def git(*words: str) -> str:
        line = ["git", "-C", str(folder), *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", pathlib.Path(__file__).name)  # not another repository
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        pass
    try:  # pip install git+...: the commit is kept beside the package
        text = importlib.metadata.distribution("medxfer").read_text("direct_url.json")
        return json.loads(text or "{}").get("vcs_info", {}).get("commit_id", "")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return ""


def machine() -> dict:
    """Processor, cores, memory and GPUs, without a name of the machine."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    models = re.findall(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    found = {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "matrix_units": "amx_tile" in text,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "gpus": [],
    }
    if tensorflow := sys.modules.get("tensorflow"):
        details = tensorflow.config.experimental.get_device_details
        devices = tensorflow.config.list_physical_devices("GPU")
        found["gpus"] = [details(gpu).get("device_name", gpu.name) for gpu in devices]
    return found


def versions() -> dict[str, str]:
    """Version of Python, of this package and of every library that has been imported."""
    owners = importlib.metadata.packages_distributions()
    imported = {name.partition(".")[0] for name in list(sys.modules)}
    names = {"medxfer", *(owner for name in imported for owner in owners.get(name, ()))}
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in sorted(names, key=str.lower):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
