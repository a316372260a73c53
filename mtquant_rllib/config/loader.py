"""YAML with `include` and `extends`, overrides from the command line, and errors that name the nearest right key.

A settings file may name `extends: FILE` (its base, whose values it overrides key by key) and `include: [FILE, ...]`
(one file per concern, merged in order). Paths are relative to the file that names them; a bare name that is not beside
the file is looked for among the configs shipped with the project.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mtquant_rllib.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

_PACKAGE = Path(__file__).resolve().parent.parent


def configs_dir() -> Path:
    """The shipped configs: beside the package in a checkout, inside it in an installed wheel."""
    for candidate in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if (candidate / "default.yaml").is_file():
            return candidate
    raise ConfigError(f"the shipped configs are missing: no default.yaml in {_PACKAGE.parent / 'configs'}")


def _find(name: str, beside: Path | None) -> Path:
    path = Path(name).expanduser()
    candidates = [path] if path.is_absolute() else [*([beside / path] if beside else [path]), configs_dir() / path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise ConfigError(f"no config file {name!r}; looked in {', '.join(str(c.parent) for c in candidates)}")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, key by key at every depth."""
    tree = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), Mapping):
            tree[key] = merged(tree[key], value)
        else:
            tree[key] = value
    return tree


# libyaml's, where PyYAML was built with it: eight times as fast.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):
    """Safe YAML that refuses a key written twice, which plain YAML lets the last one win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node)
            if key in seen:
                raise ConfigError(f"{key_node.start_mark}: the key {key!r} stands twice")
            seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def read_tree(name: str | Path, beside: Path | None = None, _chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One config file with its bases and includes merged, as plain dictionaries."""
    path = _find(str(name), beside)
    if path in _chain:
        raise ConfigError(f"{path} extends itself through {' -> '.join(p.name for p in _chain)}")
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(raw).__name__}")
    tree: dict[str, Any] = {}
    chain = (*_chain, path)
    if (base := raw.pop("extends", None)) is not None:
        tree = read_tree(base, path.parent, chain)
    for part in raw.pop("include", None) or ():
        tree = merged(tree, read_tree(part, path.parent, chain))
    return merged(tree, raw)


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b.c=value` strings; the value is read as YAML (`3e-4` included)."""
    for override in overrides:
        key, sep, text = override.partition("=")
        if not sep or not key.strip():
            raise ConfigError(f"--set {override!r}: expected key=value, such as training.seed=1")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override!r}: the value is not readable as YAML: {error}") from error
        tree = with_value(tree, key.strip(), number_of(value))
    return tree


def number_of(value: Any) -> Any:
    """The value, as a number where it is a text that reads as one: YAML 1.1 takes 3e-4 for text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def with_value(tree: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The tree with one value set; path: `a.b.c`."""
    patch: Any = value
    for part in reversed(path.split(".")):
        patch = {part: patch}
    return merged(tree, patch)


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Field names of the model that stands at `path` below `model`, as far as annotations tell."""
    current: Any = model
    for part in path:
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        field = current.model_fields.get(str(part))
        if field is None:
            return []
        current = field.annotation
        for arg in getattr(current, "__args__", ()):
            if isinstance(arg, type) and issubclass(arg, BaseModel):
                current = arg
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return []


def _all_paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    paths = []
    for name, field in model.model_fields.items():
        paths.append(prefix + name)
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            paths += _all_paths(annotation, f"{prefix}{name}.")
    return paths


def validate(model: type[M], tree: Mapping[str, Any], source: str) -> M:
    """Build the typed settings, turning every complaint into one line a person can act on.

    Raises
    ------
    ConfigError
        Naming each wrong key with its value, what is expected there, and the nearest known key.
    """
    try:
        return model.model_validate(dict(tree))
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                known = _known_keys(model, item["loc"][:-1])
                near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
                elsewhere = [p for p in _all_paths(model) if p.split(".")[-1] == str(item["loc"][-1])]
                if near:
                    parent = ".".join(str(part) for part in item["loc"][:-1])
                    hint = f"; did you mean {parent + '.' if parent else ''}{near[0]}?"
                elif elsewhere:
                    hint = f"; did you mean {elsewhere[0]}?"
                else:
                    hint = f"; known here: {', '.join(known)}" if known else ""
                lines.append(f"{key}: unknown key{hint}")
            elif item["type"] == "missing":
                lines.append(f"{key}: missing")
            else:
                value = item.get("input")
                hint = ""
                if item["type"] == "less_than_equal" and isinstance(value, (int, float)) and 1 < value <= 100:
                    hint = f"; did you mean {value / 100:g}?"
                said = f"{item['msg'][0].lower()}{item['msg'][1:]}{hint}"
                # A complaint about a whole section names what it means itself.
                what = key if isinstance(value, Mapping) else f"{key} = {value!r}"
                lines.append(f"{what}: {said}" if what else said)
        raise ConfigError(f"{source}: " + "\n  ".join(lines)) from None
