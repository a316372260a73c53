"""A settings file that cannot be read is one error that says why, whatever is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import read_tree
from mtquant_rllib.errors import ConfigError

BROKEN = {
    "not UTF-8": (b"seed: 1 # B\xf6rse\n", "byte 0xf6 at 11 is not UTF-8"),
    "UTF-16": ("seed: 1\n".encode("utf-16"), "is not UTF-8"),
    "a mapping as key": (b"{a: b}: 1\n", "a key must be a word, not dict"),
    "a list as key": (b"? [a]\n: 1\n", "a key must be a word, not list"),
    "a number to include": (b"include: 7\n", "include = 7: expected the name of a file"),
    "numbers to include": (b"include: [7]\n", "include = [7]: expected the name of a file"),
    "a mapping to extend": (b"extends: {a: b}\n", "extends = {'a': 'b'}: expected the name of a file"),
    "a thirteenth month": (b"seed: 2019-13-01\n", "not readable as YAML: month must be in 1..12"),
    "a zero byte": (b"seed: \x00\n", "not readable as YAML"),
    "brackets without end": (b"seed: " + b"[" * 5000, "not readable as YAML"),
    "deep brackets": (b"seed: " + b"[" * 5000 + b"]" * 5000, "not readable as YAML"),
    "an alias in itself": (b"seed: &a [*a]\n", "written out"),
    "aliases of aliases": (
        b"a0: &a0 [1, 1]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (k, k, k - 1, k - 1) for k in range(1, 40)),
        "more than 1,000,000 values",
    ),
    "a tag of Python's": (b"seed: !!python/object:os.system {}\n", "not readable as YAML"),
    "a name too long": (b"extends: " + b"x" * 5000, "no config file"),
    "nobody's home": (b"extends: ~nobody_of_that_name/x.yaml", "no config file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_settings_file_that_cannot_be_read_is_one_error(kind: str, tmp_path: Path) -> None:
    content, said = BROKEN[kind]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_tree(path)
    assert said in str(caught.value)


def test_one_file_may_be_included_without_a_list(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text("seed: 7\n")
    (tmp_path / "mine.yaml").write_text("include: part.yaml\n")
    assert read_tree(tmp_path / "mine.yaml") == {"seed": 7}


@pytest.mark.parametrize(
    "override",
    [
        "=1",
        "seed",
        ".seed=1",
        "seed..x=1",
        "a." * 2000 + "a=1",
        "seed=[",
        "seed={[a]: 1}",
        "seed=2019-13-01",
        "seed=&a [*a]",
    ],
)
def test_an_override_that_cannot_be_read_is_one_short_error(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(overrides=[override])
    assert len(str(caught.value)) < 700
