"""YAML with `include` and `extends`, overrides from the command line, and errors that name the nearest right key.

A settings file may name `extends: FILE` (its base, whose values it overrides key by key) and `include: [FILE, ...]`
(one file per concern, merged in order). Paths are relative to the file that names them; a bare name that is not beside
the file is looked for among the configs shipped with the project.
"""

from __future__ import annotations

import contextlib
import difflib
import reprlib
from collections.abc import Hashable, Iterable, Mapping
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
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"no config file {name!r}: {error}") from None
    candidates = [path] if path.is_absolute() else [*([beside / path] if beside else [path]), configs_dir() / path]
    for candidate in candidates:
        # A name that no file can have, such as one of a thousand letters, is not there.
        with contextlib.suppress(OSError, ValueError):
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


_LARGEST_TREE = 1_000_000
_DEEPEST = 32
"""Parts of a key; the deepest setting has six."""
_LONGEST_SHOWN = 200


def _shown(value: Any) -> str:
    """A value for a message, cut where it is long or deep."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = _LONGEST_SHOWN
    short.maxlist = short.maxdict = short.maxtuple = short.maxset = 12
    return short.repr(value)


# libyaml's, where PyYAML was built with it: eight times as fast.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):
    """Safe YAML that refuses a key written twice, which plain YAML lets the last one win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConfigError(f"{key_node.start_mark}: a key must be a word, not {type(key).__name__}")
            if key in seen:
                raise ConfigError(f"{key_node.start_mark}: the key {key!r} stands twice")
            seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _parsed(text: str, what: str) -> Any:
    """The value of a YAML text. Raises ConfigError, `what` first, for whatever cannot be read as settings."""
    try:
        value = yaml.load(text, Loader=_Loader)
        if _size(value, {}) > _LARGEST_TREE:
            raise ConfigError(f"{what}: more than {_LARGEST_TREE:,} values once its aliases are written out")
        return value
    except yaml.YAMLError as error:
        raise ConfigError(f"{what}: not readable as YAML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{what}: not readable as YAML: nested too deeply, or an alias holds itself") from None
    except (ValueError, TypeError, OverflowError, AttributeError, KeyError) as error:
        # PyYAML's own conversions: a date in a thirteenth month, a tag on what it does not fit.
        raise ConfigError(f"{what}: not readable as YAML: {error}") from error


def _size(value: Any, known: dict[int, int]) -> int:
    """Number of values below one, each as often as aliases repeat it."""
    if not isinstance(value, (dict, list, tuple, set)):
        return 1
    if id(value) not in known:
        # Until it is known, whoever meets it again is inside of it.
        known[id(value)] = _LARGEST_TREE
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]


def _names(path: Path, key: str, value: Any) -> list[str]:
    """File names under `extends` or `include`. Raises ConfigError for what is none."""
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: {key} = {_shown(value)}: expected the name of a file, or a list of them")
    return names


def read_tree(name: str | Path, beside: Path | None = None, _chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """One config file with its bases and includes merged, as plain dictionaries."""
    path = _find(str(name), beside)
    if path in _chain:
        raise ConfigError(f"{path} extends itself through {' -> '.join(p.name for p in _chain)}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte 0x{error.object[error.start]:02x} at {error.start} is not UTF-8; save the file as UTF-8 text"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    raw = _parsed(text, str(path))
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(raw).__name__}")
    tree: dict[str, Any] = {}
    chain = (*_chain, path)
    for key in ("extends", "include"):
        for part in _names(path, key, raw.pop(key, None)):
            tree = merged(tree, read_tree(part, path.parent, chain))
    return merged(tree, raw)


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b.c=value` strings; the value is read as YAML (`3e-4` included)."""
    for override in overrides:
        key, sep, text = override.partition("=")
        parts = key.strip().split(".")
        if not sep or not all(parts) or len(parts) > _DEEPEST:
            raise ConfigError(f"--set {override[:_LONGEST_SHOWN]!r}: expected key=value, such as seed=1")
        value = _parsed(text, f"--set {override[:_LONGEST_SHOWN]!r}")
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
                what = key if isinstance(value, Mapping) else f"{key} = {_shown(value)}"
                lines.append(f"{what}: {said}" if what else said)
        raise ConfigError(f"{source}: " + "\n  ".join(lines)) from None
