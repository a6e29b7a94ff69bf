"""Settings of the server, from environment variables that start with ``SECONDLOOK_``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from secondlook.model.bundles.engine_choice import EngineChoice
from secondlook.model.errors import ParameterError
from secondlook.model.stores.milvus_server import MilvusSettings
from secondlook.service.prefix import PREFIX as PREFIX_PATH
from secondlook.service.problems import likely

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where prometheus_client looks for the folder that all workers count in."""
PREFIX = "SECONDLOOK_"
NO_OBJECT = f"it is no JSON object: set {PREFIX}MILVUS__ADDRESS and its like instead"
ELSEWHERE = ("author_weights", "photos", "key")
"""Variables that begin so, too, and are read by commands that are no server, or by `make paper`."""
LEAST_DECODE_BYTES, ENOUGH_DECODE_BYTES = 384 << 20, 3 << 29
"""For each worker: without which nothing large is decoded; and what 64 megapixels of any format take."""

Absolute = Annotated[Path, AfterValidator(Path.expanduser), AfterValidator(Path.resolve)]


def _leads_somewhere(given: Path) -> Path:
    path = given.expanduser()
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{path} is a link to {path.readlink()}, which is not there: make that folder first")
    return path


def _split(given: object) -> object:
    return re.split(r"[,\s]+", given.strip(", ")) if isinstance(given, str) else given


def _host_name(given: str) -> str:
    """A host's name as requests spell it: in lower case, without a port, ASCII alone."""
    name = given.lower().removesuffix(".").strip("[]")
    wildcard, name = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    with suppress(UnicodeError):
        name = name if name.isascii() else name.encode("idna").decode()
    if not re.fullmatch(r"\*|[a-z0-9_.-]{1,253}|[0-9a-f:.]{2,45}", name) or (wildcard and name == "*"):
        raise ValueError(f"{given} is no host: give names without a port, such as photos.example.org or *.example.org")
    return wildcard + name


HostName = Annotated[str, AfterValidator(_host_name)]


def _path_prefix(given: str) -> str:
    prefix = given.rstrip("/")
    if prefix and not PREFIX_PATH.fullmatch(prefix):
        raise ValueError("give a path of letters, digits and ._~-, such as /look")
    return prefix


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
    allowed_hosts: Annotated[tuple[HostName, ...] | None, NoDecode, BeforeValidator(_split)] = Field(
        None,
        description="Names that requests may be sent to (their `Host`), with commas between them: `a.example.org`, "
        "`*.example.org` for all below it, `*` for any; loopback names always are. Unset: loopback names alone where "
        "the server listens on loopback, any elsewhere.",
    )
    root_path: Annotated[str, AfterValidator(_path_prefix)] = Field(
        "",
        description="Path below which a proxy serves this server, such as `/look`; links in answers begin with it. "
        "Unset, an `X-Forwarded-Prefix` is believed that comes from this machine.",
    )
    bundles: Annotated[Path, AfterValidator(_leads_somewhere), AfterValidator(Path.resolve)] | None = Field(
        None,
        description="Folder of the bundles; an empty one is seeded with the default bundle. "
        "Unset on loopback: one in the user's data home, which the log names. Unset elsewhere, or with Milvus: the "
        "default bundle, which cannot be changed.",
    )
    admin_key: SecretStr | None = Field(
        None,
        min_length=1,
        description="Key for the calls that change something, sent as `Authorization: Bearer …`. "
        "Unset, and without such a key in the file of keys, all of them are refused; but where the folder of bundles "
        "is unset too, on loopback, a key is made and shown as part of the page's address.",
    )
    keys_file: Absolute | None = Field(
        None,
        description="File of more keys, hashed: a line `name role sha256` for each, as `secondlook key` makes them. "
        "Read again when it changes.",
    )
    data: Absolute | None = Field(None, description="Folder of unpacked datasets; rebuilds read only below it.")
    log: Literal["text", "json"] = Field("text", description="Form of the log: `text`, or `json`, an object a line.")
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where the encoder runs: `cpu`, or `cuda` (PyTorch; needs the gpu extra)."
    )
    engine: EngineChoice = Field(
        "auto",
        description="What runs the encoder on `cpu`, and in which precision: `onnxruntime` (float32), or with the fast "
        "extra `openvino-f32`, `openvino-bf16` or `openvino-int8`; the last two run bundles whose answers they were "
        "seen to keep, and float32 runs the others. `auto` is the fastest of them on this machine, measured once.",
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
        "more is refused. 0 = 1.5 GiB for each worker, which 64 megapixels of any format need.",
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
    body_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Seconds for a request's body to arrive, before a 408; its headers have as long, but at most 10, "
        "and 1 KiB more must come every 10. A client that has not taken its answer after twice that is cut off.",
    )
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
    milvus: MilvusSettings | None = Field(
        None, description="Where the keys are kept beyond one machine (docs/scaling.md)."
    )
    replica: bool = Field(
        False,
        description="Whether the server only answers, as one of several on one cache in Milvus: it follows the "
        "primary, writes nothing to its folder of bundles, and refuses what would change something.",
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Seconds to decode, wait and compute, counted from the last byte received, before a 503.",
    )

    @property
    def decode_bytes(self) -> int:
        """``max_decode_bytes``, as a number where it is left to the server."""
        return self.max_decode_bytes or self.workers * ENOUGH_DECODE_BYTES

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


def read_settings(**given: object) -> Settings:
    """The settings: these, and for the others environment variables.

    Raises:
        ParameterError: one is wrong; names its variable.
    """
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        # A wrong name explains why the right one is missing.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        names = [str(part) for part in first["loc"] if isinstance(part, str)]
        if first["type"] == "extra_forbidden":
            why = "there is no such setting" + likely(names[-1], list(MilvusSettings.model_fields))
        else:
            why = str(first.get("ctx", {}).get("error") or first["msg"])
        if names == ["milvus"]:
            why = NO_OBJECT
        if names == ["port"] and str(first["input"]).startswith("tcp://"):
            why += ". Kubernetes sets it for a service of that name: set enableServiceLinks to false"
        raise ParameterError(f"{PREFIX}{'__'.join(names).upper() or 'REPLICA'}: {why}") from error
    except SettingsError as error:
        raise ParameterError(f"{PREFIX}MILVUS: {NO_OBJECT}") from error


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence on each environment variable that looks like a setting and is none."""
    known = [f"{PREFIX}{name}".upper() for name in (*dict(_flat()), "milvus", *ELSEWHERE)]
    sentences = []
    for name in sorted(environment):
        if not name.upper().startswith(PREFIX) or name.upper() in known:
            continue
        close = get_close_matches(name.upper(), known, n=1, cutoff=0.8)
        meant = f"{close[0]} is the likely one" if close else "docs/settings.md lists them"
        sentences.append(f"{name} is no setting: {meant}")
    return sentences


def settings_table() -> str:
    """A Markdown table of all settings, for docs/settings.md."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in _flat():
        is_unset = field.is_required() or field.default in (None, "", SecretStr(""))
        default = "unset" if is_unset else f"`{field.default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"
