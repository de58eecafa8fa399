"""The repository's own promises: layout, lock file, generated files, import rules."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def load_script(name: str) -> ModuleType:
    """Import a file of scripts/, which carries no .py ending."""
    loader = SourceFileLoader(f"script_{name.replace('-', '_')}", str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def tracked_files() -> list[str]:
    answer = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return answer.stdout.splitlines()


def test_top_level_is_the_agreed_one() -> None:
    wanted = ["notebooks", "src/quantflow", "pipelines", "dags", "reports", "docker", "tests"]
    wanted += ["environment.yml", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"]
    wanted += ["docs/decisions", "docs/architecture.md", "docs/troubleshooting.md", ".env.example", "requirements.lock"]
    assert [name for name in wanted if not (ROOT / name).exists()] == []


def test_every_import_rule_holds() -> None:
    """The floors of the design page, and the one home of each foreign library."""
    linter = Path(sys.executable).with_name("lint-imports")
    answer = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


def test_environment_yml_follows_pyproject() -> None:
    assert (ROOT / "environment.yml").read_text() == load_script("environment").render()


def test_env_example_lists_every_setting() -> None:
    text = (ROOT / ".env.example").read_text()
    assert text == load_script("env-example").render()
    from quantflow.settings import Settings

    assert [name for name in Settings.model_fields if f"QUANTFLOW_{name.upper()}=" not in text] == []


def test_lock_file_names_a_hash_for_every_package_and_no_index() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-zA-Z0-9])", lock)
    assert len(entries) > 200
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", lock)


def test_lock_file_satisfies_every_direct_dependency() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lock = (ROOT / "requirements.lock").read_text()
    # One package may be locked in several versions, for different Python versions.
    locked: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", lock, re.MULTILINE):
        locked.setdefault(canonicalize_name(name), []).append(version)
    project = PYPROJECT["project"]
    direct = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    missing = []
    for line in direct:
        requirement = Requirement(line)
        versions = locked.get(canonicalize_name(requirement.name), [])
        if not any(requirement.specifier.contains(version, prereleases=True) for version in versions):
            missing.append(line)
    assert missing == []


@pytest.mark.parametrize(
    "target", ["demo", "test", "test-unit", "up", "down", "status", "doctor", "lab", "reset", "lock"]
)
def test_make_alone_lists_the_target(target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    answer = subprocess.run(["make"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert re.search(rf"^\s+make {target}\s", answer.stdout, re.MULTILINE)


def test_no_source_file_is_longer_than_450_lines() -> None:
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in tracked_files() if name.startswith("src/")}
    assert {name: length for name, length in lengths.items() if length > 450 and name.endswith(".py")} == {}


def test_no_tracked_file_names_a_secret_file() -> None:
    assert [name for name in tracked_files() if Path(name).name in {".env", "secrets.env"}] == []


def test_package_is_typed_and_light() -> None:
    """`import quantflow` alone loads nothing else of ours, and nothing foreign."""
    code = "import sys; before = set(sys.modules); import quantflow; print(sorted(set(sys.modules) - before))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "['quantflow']"
    assert (ROOT / "src/quantflow/py.typed").exists()
