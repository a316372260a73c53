"""Checks of this machine: packages, market, storage, shared memory, GPUs, tracker."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

from mtquant_rllib.config import Settings
from mtquant_rllib.doctor.findings import CheckResult
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.records.signatures import KEY_VARIABLE, key_file
from mtquant_rllib.training.reporting.weights_and_biases.session import (
    DISABLED,
    OFFLINE,
    Unreachable,
    service_address,
    usual_mode,
)

LEAST_FREE_MB = 1024
"""Of a disk that holds runs or a prepared market: three checkpoints of a phase's three trials take up to 200 MB, a
prepared market of six years 30 MB."""
TRACKER_SECONDS = 5.0
SHARED_MEMORY = Path("/dev/shm")


def packages() -> Iterator[CheckResult]:
    """Every package that this project names, in a version that it takes."""
    wrong = []
    for text in importlib.metadata.requires("mtquant_rllib") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} {found} is not {wanted.specifier}")
    if wrong:
        yield CheckResult(
            "packages", "failed", "; ".join(wrong), "pip install --upgrade mtquant_rllib, or `make train`"
        )
        return
    known = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "numpy"))
    yield CheckResult("packages", "ok", known)


def market(settings: Settings, bars: Path | None, macro: Path | None) -> Iterator[CheckResult]:
    """The bars can be read, and every split has something to trade."""
    from mtquant_rllib.env.prepared.data import describe
    from mtquant_rllib.training.preparation import prepare

    folder = Path(prepare(settings, bars, macro).data)
    splits = describe(folder)["splits"]
    yield CheckResult("market", "ok", f"{bars or 'embedded'}: {', '.join(splits)}; prepared in {folder}")


def storage(what: str, folder: Path) -> Iterator[CheckResult]:
    """A folder can be written to, with what runs need of a file system, and has room."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    probe = there / f".mtquant-doctor-{os.getpid()}"
    try:
        probe.mkdir()
        try:
            written = probe / "a"
            with open(written, "wb") as file:
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
            os.rename(written, probe / "b")
        finally:
            shutil.rmtree(probe, ignore_errors=True)
        free = shutil.disk_usage(there).free // 2**20
    except OSError as error:
        yield CheckResult(what, "failed", f"{there} cannot be written: {error.strerror}", _storage_cure(what))
        return
    if free < LEAST_FREE_MB:
        yield CheckResult(
            what, "failed", f"{there} has {free} MB free, of {LEAST_FREE_MB} that are wanted", "make room"
        )
        return
    yield CheckResult(what, "ok", f"{folder}: written, synced and renamed; {free / 1024:.0f} GB free")


def object_store(address: str) -> Iterator[CheckResult]:
    """A file can be written to an object store, read back and removed."""
    from mtquant_rllib.object_store import Store, expect_endpoint

    expect_endpoint(address)
    try:
        Store.at(address).probe()
    except OSError as error:
        cure = "see to the bucket, its credentials and the way there (AWS_*, gcloud auth, AZURE_STORAGE_*)"
        yield CheckResult("runs", "failed", f"{address}: {error.strerror or error}", cure)
        return
    yield CheckResult("runs", "ok", f"{address}: written, read and removed")


def signing_key() -> Iterator[CheckResult]:
    """A run in an object store outlives this machine, and so has to the key that signs its checkpoints."""
    path = key_file()
    if path.exists():
        yield CheckResult("key", "ok", f"{path} signs checkpoints")
        return
    said = f"{path} is not there, and is made when a run begins; on another machine its checkpoints are a stranger's"
    yield CheckResult("key", "warning", said, f"keep a copy of it, and bring it along or name it in ${KEY_VARIABLE}")


def _storage_cure(what: str) -> str:
    return "let $MTQUANT_CACHE name a folder of yours" if what == "cache" else "name another folder with --run"


def shared_memory(settings: Settings) -> Iterator[CheckResult]:
    """What a session of this machine takes of /dev/shm is there."""
    from mtquant_rllib.training.session.ray_start import LEAST_STORE_MB

    wanted = settings.resources.object_store_mb
    if wanted < LEAST_STORE_MB:
        said = f"resources.object_store_mb = {wanted} is less than Ray's object store takes"
        yield CheckResult("memory", "failed", said, f"set resources.object_store_mb={LEAST_STORE_MB} or more")
        return
    if not SHARED_MEMORY.exists():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free // 2**20
    if free < wanted:
        yield CheckResult(
            "memory",
            "failed",
            f"{SHARED_MEMORY} has {free} MB free, of {wanted} that Ray's object store takes",
            f"docker run --shm-size={2 * wanted}m, or --set resources.object_store_mb={max(free // 2, 80)}",
        )
        return
    yield CheckResult("memory", "ok", f"{free} MB of shared memory, {wanted} for Ray's object store")


def gpus(settings: Settings) -> Iterator[CheckResult]:
    """GPUs that are there can be used by torch."""
    import torch

    if settings.resources.gpus == "none":
        yield CheckResult("gpus", "ok", "not asked for (resources.gpus = none)")
        return
    there = _listed_gpus()
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        yield CheckResult("gpus", "ok", f"{names}; torch {torch.__version__} for CUDA {torch.version.cuda}")
    elif there and os.environ.get("CUDA_VISIBLE_DEVICES") is not None and torch.backends.cuda.is_built():
        hidden = os.environ["CUDA_VISIBLE_DEVICES"]
        yield CheckResult("gpus", "ok", f"{'; '.join(there)}: hidden by CUDA_VISIBLE_DEVICES={hidden!r}")
    elif there:
        why = "built without CUDA" if not torch.backends.cuda.is_built() else f"for CUDA {torch.version.cuda}"
        yield CheckResult(
            "gpus",
            "failed",
            f"{'; '.join(there)}: torch {torch.__version__} ({why}) cannot use it",
            "pip install torch for the driver's CUDA (https://pytorch.org/get-started/locally), or "
            "--set resources.gpus=none",
        )
    else:
        yield CheckResult("gpus", "ok", "none here; everything is computed on CPUs")


def _listed_gpus() -> list[str]:
    """GPUs by the driver's own tool; nothing where there is none."""
    try:
        asked = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.split(" (UUID")[0] for line in asked.stdout.splitlines() if line.startswith("GPU")]


def tracker(settings: Settings) -> Iterator[CheckResult]:
    """Trackers are there, and Weights & Biases can be reached, where it is to be."""
    from mtquant_rllib.training.reporting.trackers import WANDB, expect_trackers, tracked_by

    try:
        expect_trackers(settings)
    except ConfigError as error:
        yield CheckResult("trackers", "failed", str(error), "install it, or leave it out of tracking.trackers")
        return
    if not tracked_by(settings, WANDB):
        yield CheckResult("wandb", "ok", "off (tracking.trackers does not name it)")
        return
    try:
        mode = usual_mode()
    except Unreachable as error:
        yield CheckResult("wandb", "failed", str(error), "`wandb login` again; without a key runs are kept offline")
        return
    if mode in (OFFLINE, DISABLED):
        yield CheckResult("wandb", "ok", f"{mode}, as its own settings and keys have it")
        return
    host, port = service_address()
    try:
        socket.create_connection((host, port), timeout=TRACKER_SECONDS).close()
    except OSError as error:
        yield CheckResult(
            "wandb",
            "failed",
            f"{host} cannot be reached: {error}",
            "WANDB_MODE=offline keeps runs in their folders, and `mtquant wandb sync RUN` sends them later",
        )
        return
    yield CheckResult("wandb", "ok", f"{host} answers")
