"""The files of a bundle, each read with what is checked of it.

::

    <generation>/  manifest.json encoder.onnx network.safetensors keys.faiss values.npy entries.sqlite
                   directions.npy (C,D+1), where novelty goes by RMDS
                   encoder.onnx.data, weights of encoder.onnx, where they are 32 MiB or more
                   encoder.int8.xml, encoder.int8.bin, the encoder in 8 bits, where that keeps the answers
                   taught.npy (n,D), keys of added entries that were folded in, where the store keeps keys in fewer bits
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from secondlook.model.cache import Floats, Ints
from secondlook.model.errors import BundleError
from secondlook.model.images import Geometry
from secondlook.model.manifest import MANIFEST, READ_VERSIONS, FileInfo, Manifest
from secondlook.model.networks.engines import DATA

ENCODER, NETWORK, KEYS, VALUES, ENTRIES, DIRECTIONS, FOLDED_KEYS = (
    "encoder.onnx",
    "network.safetensors",
    "keys.faiss",
    "values.npy",
    "entries.sqlite",
    "directions.npy",
    "taught.npy",
)

ENCODER_DATA = f"{ENCODER}{DATA}"
FEATURES = "features"
"""A root's folder of what was embedded, by encoder; may be removed at any time."""
REQUIRED = (ENCODER, VALUES, ENTRIES)


def require_module(manifest: Manifest, needed_for: str) -> None:
    """Refuse what needs a network's module where a bundle has its exported graph alone.

    Raises:
        BundleError: there is no network file; ``needed_for`` says, after "which", what it was needed for.
    """
    if NETWORK in manifest.files:
        return
    raise BundleError(
        f"bundle {manifest.generation} has no {NETWORK}, which {needed_for}: of {manifest.network.name} it keeps the "
        f"exported graph alone; index with --network FILE.safetensors, a ResNet of secondlook train or import-keras, "
        "makes a bundle that has it"
    )


def read_manifest(root: Path, generation: str) -> Manifest:
    """The manifest of one generation, files not checked.

    Raises:
        BundleError: it is missing, damaged or from another version.
    """
    return manifest_in(root / generation, generation)


def manifest_in(folder: Path, generation: str) -> Manifest:
    """The manifest in a folder, which must be that generation's.

    Raises:
        BundleError: it is missing, damaged or from another version.
    """
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        version = content["schema_version"]
    except FileNotFoundError as error:
        raise BundleError(f"bundle {generation} is refused: {MANIFEST} is missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"bundle {generation} is refused: {MANIFEST} is not a manifest") from error
    if version not in READ_VERSIONS:
        raise BundleError(
            f"bundle {generation} is refused: {MANIFEST} has schema version {version}, "
            f"this secondlook reads {' and '.join(map(str, READ_VERSIONS))}"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = f" at {place}" if (place := ".".join(map(str, first["loc"]))) else ""
        why = f": {first['msg'].removeprefix('Value error, ')}" if first["type"] == "value_error" else ""
        raise BundleError(f"bundle {generation} is refused: {MANIFEST} is wrong{where}{why}") from error
    if manifest.generation != generation:
        raise BundleError(f"bundle {generation} is refused: {MANIFEST} is of generation {manifest.generation}")
    return manifest


def encoder_id(manifest: Manifest) -> str:
    """What keys of images depend on, in hexadecimal: the encoder's files, and how images are brought to it.

    It is the graph's own SHA-256 where its weights are in it and images cover the encoder's size, as they all did once:
    journals keep keys by it.
    """
    return encoder_id_of(manifest.files, manifest.preprocess.geometry)


def encoder_id_of(files: Mapping[str, FileInfo], geometry: Geometry) -> str:
    """The same, of a bundle's files, and how images are brought to its encoder."""
    encoder = files[ENCODER].sha256
    if ENCODER_DATA in files:
        encoder = hashlib.sha256(f"{encoder} {files[ENCODER_DATA].sha256}".encode()).hexdigest()
    if geometry == Geometry.covering(*geometry.size):
        return encoder
    return hashlib.sha256(f"{encoder} {json.dumps(asdict(geometry))}".encode()).hexdigest()


def encoder_files(folder: Path) -> dict[str, FileInfo]:
    """Those of an encoder in a folder."""
    return {name: file_info(folder / name) for name in (ENCODER, ENCODER_DATA) if (folder / name).exists()}


def features_of(manifest: Manifest) -> str | None:
    """The name of the folder of what a bundle's encoder embedded before, whatever its head is; None = nothing is kept.

    A GPU that runs an encoder in bfloat16 makes other keys than a processor does: those are not kept.
    """
    if manifest.network.bfloat16:
        return None
    if manifest.features is None and manifest.head != "linear":
        return encoder_id(manifest)
    return manifest.features


def check_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Hold files to the manifest: that it lists what a bundle needs, and their sizes and hashes."""
    refuse = partial(refusal, manifest.generation)
    for name in (*REQUIRED, *([KEYS] if manifest.store.kind == "faiss" else [])):
        if name not in manifest.files:
            raise refuse(MANIFEST, f"does not list {name}")
    if ENCODER_DATA not in manifest.files and (folder / ENCODER_DATA).exists():
        raise refuse(MANIFEST, f"does not list {ENCODER_DATA}")
    for name in names:
        path, info = folder / name, manifest.files[name]
        if Path(name).name != name or not path.is_file():
            raise refuse(name, "is missing")
        try:
            found = file_info(path)
        except OSError as error:
            raise refuse(name, f"cannot be read: {error.strerror}") from error
        if found.size != info.size:
            raise refuse(name, f"has {found.size:,} bytes, the manifest says {info.size:,}")
        if found.sha256 != info.sha256:
            raise refuse(name, "is damaged (its SHA-256 differs from the manifest's)")


def read_values(folder: Path, manifest: Manifest) -> Ints:
    """Class numbers (N,).

    Raises:
        BundleError: there is none although there are classes, or one is no class's.
    """
    refuse, classes = partial(refusal, manifest.generation), len(manifest.classes)
    try:
        values = np.load(folder / VALUES, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise refuse(VALUES, "is not an array") from error
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise refuse(VALUES, "is not a list of class numbers")
    if values.min(initial=0) < 0 or values.max(initial=-1) >= classes or (classes and not len(values)):
        raise refuse(VALUES, f"has a class outside 0 to {classes - 1}, or none")
    return np.asarray(values, np.int64)


def read_matrix(folder: Path, manifest: Manifest, name: str, rows: int, columns: int) -> Floats | None:
    """A file of numbers; None where the bundle has none."""
    if name not in manifest.files:
        return None
    refuse = partial(refusal, manifest.generation)
    try:
        numbers = np.load(folder / name, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise refuse(name, "is not an array") from error
    if numbers.shape != (rows, columns) or numbers.dtype != np.float32:
        raise refuse(name, f"is not of {rows:,} x {columns:,} float32 numbers")
    if not np.isfinite(numbers).all():
        raise refuse(name, "has a number that is not finite")
    return np.asarray(numbers, np.float32)


def file_info(path: Path) -> FileInfo:
    """A file's size and hash."""
    return FileInfo(size=path.stat().st_size, sha256=file_sha256(path))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refusal(generation: str, file: str, why: str) -> BundleError:
    """The error that a file of a bundle is amiss."""
    return BundleError(f"bundle {generation} is refused: {file} {why}")
