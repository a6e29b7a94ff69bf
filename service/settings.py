"""Settings of the server, from environment variables that start with ``SECONDLOOK_``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.milvus import MilvusSettings

PREFIX = "SECONDLOOK_"
LEAST_DECODE_BYTES = 256 << 20
"""For each worker."""

Absolute = Annotated[Path, AfterValidator(Path.expanduser), AfterValidator(Path.resolve)]


class Settings(BaseSettings):
    """What a server can be told; built by the command or a test, never at import."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        # Compose files pass unset variables on as empty ones; an empty admin key must mean none.
        env_ignore_empty=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    bundles: Absolute | None = Field(
        None,
        description="Folder of the bundles; an empty one is seeded with the default bundle. "
        "Unset serves the default bundle, which cannot be rebuilt.",
    )
    admin_key: SecretStr | None = Field(
        None,
        min_length=1,
        description="Key for the calls that change something, sent as `Authorization: Bearer …`. "
        "Unset, and without such a key in the file of keys, all of them are refused.",
    )
    keys_file: Absolute | None = Field(
        None,
        description="File of more keys, hashed: a line `name role sha256` for each, as `secondlook key` makes them. "
        "Read again when it changes.",
    )
    data: Absolute | None = Field(None, description="Folder of unpacked datasets; rebuilds read only below it.")
    log: Literal["text", "json"] = Field("text", description="Form of the log: `text`, or `json`, an object a line.")
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where the encoder runs: `cpu` (ONNX Runtime), or `cuda` (PyTorch; needs the gpu extra)."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the network on `cuda`; `auto` is what was decided when the bundle was made there."
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes that answer on the port; queue, threads and decoding are divided among them. More than "
        "one for processors with many cores; needs Linux.",
    )
    threads: int = Field(
        0,
        ge=0,
        description="Processor threads for the encoder, in each worker; 0 = all cores, divided among the workers "
        "(batches of a single one leave one).",
    )
    max_files: int = Field(64, ge=1, description="Images in one request.")
    max_file_bytes: int = Field(16 << 20, ge=1, description="Bytes of one image.")
    max_request_bytes: int = Field(64 << 20, ge=1, description="Bytes of one request.")
    max_pixels: int = Field(64_000_000, ge=1, description="Pixels of one image, by its header.")
    max_decode_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of memory in which images are decoded, in all, divided among the workers; one that takes "
        "more is refused. 0 = 1 GiB, or 256 MiB for each worker where that is more.",
    )
    max_decode_s: float = Field(
        5.0,
        gt=0,
        description="Seconds of the processor for decoding one request's images, or 0.1 for each of them where that is "
        "more; what takes longer is ended and refused with a 400.",
    )
    max_batch: int = Field(
        16, ge=1, description="Images computed at once. On processors more are no faster; a GPU takes 64 and more."
    )
    max_queue: int = Field(
        512,
        ge=1,
        description="Images received, waiting or computed at once; beyond it requests are answered 429. "
        "One that comes alone is always taken.",
    )
    max_queue_bytes: int = Field(256 << 20, ge=1, description="The same, in bytes received.")
    header_timeout_s: float = Field(10.0, gt=0, description="Seconds for a request's headers to arrive, before a 408.")
    body_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Seconds for its body to arrive after them, before a 408. A client that has not taken its answer "
        "after twice that is cut off.",
    )
    body_stall_s: float = Field(10.0, gt=0, description="Seconds in which 1 KiB more of it must come, before a 408.")
    drain_timeout_s: float = Field(
        30.0, gt=0, description="Seconds that running requests may take to finish after a signal to stop."
    )
    keep_generations: int = Field(
        5,
        ge=0,
        description="Newest generations kept after a rebuild; the active one, the one before it and any that is open "
        "are kept too. 0 = all.",
    )
    max_taught: int = Field(
        50_000, ge=0, description="Images kept of what is taught; beyond it, teaching is answered 409."
    )
    suggest_rebuild: int = Field(
        5_000,
        ge=1,
        description="Entries that differ from their generation (taught, relabelled or removed), from which on a "
        "rebuild, which folds them in, is suggested.",
    )
    milvus: MilvusSettings | None = Field(
        None, description="Where the keys are kept beyond one machine (docs/scaling.md)."
    )
    replica: bool = Field(
        False,
        description="Whether the server only answers, as one of several on one cache in Milvus: it follows the "
        "primary, writes nothing to its folder of bundles, and refuses what would change something.",
    )
    gate_margin: float = Field(
        1.0,
        ge=0,
        description="Percentage points by which a rebuilt generation's error may exceed the active one's, each on its "
        "own held-out images.",
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Seconds to decode, wait and compute, counted from the last byte received, before a 503.",
    )

    @property
    def decode_bytes(self) -> int:
        """``max_decode_bytes``, as a number where it is left to the server."""
        return self.max_decode_bytes or max(1 << 30, self.workers * LEAST_DECODE_BYTES)

    @model_validator(mode="after")
    def _is_whole(self) -> Settings:
        if self.decode_bytes < LEAST_DECODE_BYTES:
            raise ValueError(f"{PREFIX}MAX_DECODE_BYTES: give at least {LEAST_DECODE_BYTES:,}")
        if self.replica and (self.milvus is None or self.bundles is None):
            raise ValueError(
                f"a replica follows its primary through Milvus: set {PREFIX}MILVUS__ADDRESS and {PREFIX}BUNDLES"
            )
        return self

    def hide_paths(self, sentence: str) -> str:
        """A sentence for clients: the folders that this server was given are called by their variables."""
        for folder, name in ((self.bundles, "BUNDLES"), (self.data, "DATA")):
            if folder is not None:
                sentence = sentence.replace(str(folder), f"{PREFIX}{name}")
        return sentence


def _flat() -> Iterator[tuple[str, FieldInfo]]:
    """All settings; those of a part are called by it, and the field."""
    for name, field in Settings.model_fields.items():
        if name != "milvus":
            yield name, field
            continue
        for inner, of_part in MilvusSettings.model_fields.items():
            yield f"{name}__{inner}", of_part


def settings_table() -> str:
    """A Markdown table of all settings, for the README."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in _flat():
        is_unset = field.is_required() or field.default is None or field.default == SecretStr("")
        default = "unset" if is_unset else f"`{field.default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"
