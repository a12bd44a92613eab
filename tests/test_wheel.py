"""The wheel holds every module, each of which imports from it alone."""

import pathlib
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).parents[1]
IMPORT_ALL = """
import importlib, pkgutil, sys
import rljax
names = ["rljax"] + [module.name for module in pkgutil.walk_packages(rljax.__path__, "rljax.")]
for name in names:
    if not name.endswith("peers"):  # a script for the environments of others
        module = importlib.import_module(name)
        assert module.__file__.startswith(sys.argv[1]), module.__file__
print("\\n".join(names))
"""


def test_wheel(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    command = [sys.executable, "-c", IMPORT_ALL, str(unpacked)]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(unpacked)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folders = {"rljax": "rljax", "rljax/agents": "agents", "rljax/envs": "envs", "rljax/experiments": "experiments"}
    expected = set()
    for package, folder in folders.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [*package.split("/"), *path.relative_to(ROOT / folder).with_suffix("").parts]
            expected.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    assert set(done.stdout.split()) == expected and len(expected) > 40
