"""Which engine runs a bundle's encoder on a processor, and why: the one that is set, or the fastest of those that may.

float32 always may; a reduced precision may where the bundle's manifest says that it keeps the answers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secondlook.model.bundles.engine_race import fastest_of
from secondlook.model.bundles.engines import REDUCED, is_small, open_engine, why_no_openvino
from secondlook.model.errors import EngineError
from secondlook.model.manifest import Manifest
from secondlook.model.networks.engines import Engine, EngineName

logger = logging.getLogger(__name__)

EngineChoice = Literal["auto"] | EngineName
"""``auto`` is the fastest on this machine of those that may run the bundle."""
DEFAULT: EngineName = "onnxruntime"


@dataclass(frozen=True)
class OpenEngine:
    """An engine that runs a bundle's encoder, and why this one."""

    engine: Engine
    why: str


def check_installed(wanted: EngineChoice) -> None:
    """Refuse an engine that cannot run here.

    Raises:
        EngineError: says what to do.
    """
    if wanted not in ("auto", DEFAULT) and (why := why_no_openvino()) is not None:
        raise EngineError(f"the engine {wanted} {why}")


def choose_engine(
    folder: Path, manifest: Manifest, wanted: EngineChoice, threads: int, *, spare_core: bool
) -> OpenEngine:
    """Open the encoder in a bundle's folder on the engine that is wanted.

    In place of a reduced precision that may not run, OpenVINO runs in float32. For ``auto`` engines are raced where
    that was not done before on this machine, which takes some seconds.

    Raises:
        EngineError: it does not run.
    """
    if wanted == "auto":
        name, said = _fastest(folder, manifest, threads, spare_core=spare_core)
        return OpenEngine(open_engine(folder, name, threads, spare_core=spare_core), said)
    if wanted in REDUCED and (why := why_not(manifest, wanted)) is not None:
        logger.warning("generation %s runs on openvino-f32: %s", manifest.generation, why)
        return OpenEngine(open_engine(folder, "openvino-f32", threads), why)
    opened = open_engine(folder, wanted, threads, spare_core=spare_core)
    return OpenEngine(opened, "the default" if wanted == DEFAULT else "as set")


def why_not(manifest: Manifest, name: EngineName) -> str | None:
    """Why an engine of reduced precision may not run a bundle's encoder here; None where it may."""
    proof = next((one for one in manifest.engines if one.engine == name), None)
    if proof is None:
        return f"{name} was not held to float32's answers when the bundle was made: index again where it runs"
    if not proof.allowed:
        return f"{name} does not keep the answers: {proof.why}"
    from secondlook.model.networks.openvino_engine import has_bfloat16

    if name == "openvino-bf16" and not has_bfloat16():
        return "this processor has no bfloat16"
    return None


def _fastest(folder: Path, manifest: Manifest, threads: int, *, spare_core: bool) -> tuple[EngineName, str]:
    if is_small(folder):
        return DEFAULT, "the encoder is small: engines do not differ enough to be measured"
    if (missing := why_no_openvino()) is not None:
        return DEFAULT, f"the only one here: OpenVINO {missing}"
    names: list[EngineName] = [DEFAULT, "openvino-f32"]
    names += [name for name in REDUCED if why_not(manifest, name) is None]
    found = fastest_of(names, folder, manifest, threads, spare_core=spare_core)
    return found.fastest, found.said
