"""The steps of a run: how much each measures, with what, and the command that measures the same."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondlook.evaluation.paper.subjects import thinned
from secondlook.indexer.datasets.datasets import Dataset
from secondlook.indexer.embedding.encoders import best_device
from secondlook.indexer.progress import Progress
from secondlook.indexer.results import Study
from secondlook.model.bundles.bundle import Bundle
from secondlook.model.memory import available_bytes

STEPS = ("errors", "curves", "attacks", "white-box", "jacobian", "shift")
_COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "errors": (("evaluate",), ()),
    "curves": (("study", "curves"), ()),
    "attacks": (("attack",), ("--by-size",)),
    "white-box": (("attack",), ("--attacks", "", "--white-box")),
    "jacobian": (("jacobian",), ()),
    "shift": (("study", "shift"), ()),
}
"""What comes before the dataset, and after it."""


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    cached: int | None
    """Training images in the cache; None = all."""
    mirror: bool
    """Whether their mirrored copies are cached too."""
    asked: int | None
    """Test images of the error tables; None = all."""
    curves: tuple[int, int, int]
    """Test images asked, images of the holdout fitted on, and images cached for each layer."""
    attacked: int
    attack_preset: str
    white_box: int
    """Images attacked through each model's own gradient."""
    sizes: tuple[float, ...]
    """Of attacks of fixed sizes: the largest change of a pixel, of 255."""
    jacobian: int
    shifted: int
    refill: int
    """Training images put into a cache under each shift."""
    strengths: tuple[int, ...]

    def amounts(self, step: str) -> dict[str, Any]:
        """Return how much a step measures; of other amounts, it is measured anew."""
        amounts: dict[str, dict[str, Any]] = {
            "errors": {"images": self.asked},
            "curves": dict(zip(("images", "held", "cached"), self.curves, strict=True)),
            "attacks": {"images": self.attacked, "preset": self.attack_preset, "sizes": self.sizes},
            "white-box": {"images": self.white_box, "sizes": self.sizes},
            "jacobian": {"images": self.jacobian},
            "shift": {"images": self.shifted, "refill": self.refill, "strengths": self.strengths},
        }
        return amounts[step]


FULL = Plan(
    cached=None,
    mirror=True,
    asked=None,
    curves=(2000, 1000, 5000),
    attacked=500,
    attack_preset="orhan2018",
    white_box=100,
    sizes=(0.25, 0.5, 1.0, 2.0, 4.0),
    jacobian=500,
    shifted=2000,
    refill=10_000,
    strengths=(1, 2, 3, 4, 5),
)
QUICK = Plan(
    cached=10_000,
    mirror=False,
    asked=2000,
    curves=(500, 300, 1000),
    attacked=100,
    attack_preset="quick",
    white_box=10,
    sizes=(0.25, 0.5, 1.0),
    jacobian=64,
    shifted=300,
    refill=1000,
    strengths=(2, 4),
)
"""About ten minutes on two processor cores."""


def measure(
    step: str,
    bundle: Bundle,
    images: tuple[Dataset, Dataset],
    plan: Plan,
    cache_theta: float | None,
    made: dict[Any, Any],
    progress: Progress,
) -> Study:
    """Measure one of STEPS on a bundle with training and test images.

    ``cache_theta`` is the cache's alone (None = the bundle's). ``made`` keeps attacked images from one recipe to the
    next: made against the network, they are the same for each.

    Raises:
        SecondlookError: what the step's own command would say.
    """
    train, test = images
    if step == "errors":
        from secondlook.evaluation.evaluate import evaluate

        return evaluate(bundle, test, cache_theta=cache_theta, images=plan.asked, progress=progress)
    if step == "curves":
        from secondlook.evaluation.studies.curves import curves

        asked, held, cached = plan.curves
        is_whole = bundle.manifest.dataset.sha256 == train.content_hash()
        train = train if is_whole else thinned(train, plan.cached)
        return curves(bundle, test, train, images=asked, held=held, cached=cached, progress=progress)
    if step == "shift":
        from secondlook.evaluation.evaluate import Setting
        from secondlook.evaluation.studies.shift import shift

        return shift(
            bundle,
            test,
            train,
            images=plan.shifted,
            refill=plan.refill,
            strengths=plan.strengths,
            setting=Setting.of(bundle.manifest, cache_theta=cache_theta),
            progress=progress,
        )
    from secondlook.evaluation.robustness.models import Models

    # A second copy of the keys makes sums over them faster where there is room for it.
    free, size = available_bytes(), 4 * bundle.store.count * bundle.store.dim
    keeping = "float32" if free is None or 2 * size < free else "stored"
    models = Models.of(bundle, cache_theta=cache_theta, keeping=keeping, device=best_device())  # type: ignore[arg-type]
    if step == "jacobian":
        from secondlook.evaluation.robustness.jacobian import jacobians

        return jacobians(bundle, models, test, plan.jacobian, progress)
    from secondlook.evaluation.robustness.attack_study import attack_study

    if step == "attacks":
        options: dict[str, Any] = {"images": plan.attacked, "preset": plan.attack_preset, "made": made}
    else:
        options = {"images": plan.white_box, "attacks": (), "by_size": False, "own_gradient": True}
    return attack_study(bundle, models, test, epsilons=plan.sizes, progress=progress, **options)


def command(step: str, dataset: str, root: Path, plan: Plan, cache_theta: float | None) -> str:
    """Return the command that measures the same on the same bundle."""
    amounts = plan.amounts(step)
    (before, after) = _COMMANDS[step]
    line = ["secondlook", *before, dataset, "--bundles", str(root), *after]
    if amounts["images"] is not None:
        line += ["--images", str(amounts["images"])]
    if "preset" in amounts:
        line += ["--preset", amounts["preset"]]
    if "refill" in amounts:
        line += ["--refill", str(amounts["refill"])]
    if "sizes" in amounts:
        line += ["--epsilons", ",".join(f"{size:g}" for size in amounts["sizes"])]
    if cache_theta is not None:
        line += ["--cache-theta", f"{cache_theta:g}"]
    return shlex.join(line)
