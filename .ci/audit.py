"""Audit of what is installed: dependencies pinned, at their pins, without conflicts and without known vulnerabilities.

Advisories come from PyPI by way of pip-audit. Where that service cannot be reached this says so and does not fail:
a machine without a network can check everything else.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 120


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {canonical(name): pin for name, _, pin in (line.partition("==") for line in lines if "==" in line)}


def faults() -> list[str]:
    """What is wrong without asking anybody."""
    pinned, found = pins(), []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for name in sorted({canonical(re.split(r"[\[<>=!~; ]", line)[0]) for line in asked} - pinned.keys()):
        found.append(f"{name}: a dependency of pyproject.toml without a pin in constraints.txt")
    for name, pin in pinned.items():
        try:
            there = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
        if there != pin:
            found.append(f"{name}: {there} is installed, {pin} is pinned")
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    return found + (check.stdout.splitlines() if check.returncode else [])


def advisories() -> tuple[list[str], int, int]:
    """Known vulnerabilities of the pins, how many of them were looked up, and how many there are."""
    words = ["--requirement", "constraints.txt", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    command = [sys.executable, "-m", "pip_audit", *words, "--format", "json"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return [], 0, len(pins())
    audited = [package for package in packages if "skip_reason" not in package]
    found = [
        f"{package['name']} {package['version']}: {', '.join(own['id'] for own in package['vulns'])}"
        for package in audited
        if package["vulns"]
    ]
    return found, len(audited), len(packages)


def main() -> int:
    wrong = faults()
    found, audited, there = advisories()
    for line in (*wrong, *found):
        print(line)
    reached = f"{audited} of {there} pins looked up" if audited else "advisories not checked: no service was reached"
    print(f"audit: {len(wrong)} faults, {len(found)} known vulnerabilities; {reached}")
    return 1 if wrong or found else 0


if __name__ == "__main__":
    sys.exit(main())
