"""How novelty is asked for and told by the commands that fit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click

from secondlook.model.manifest import Manifest

unknown_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--unknown",
    multiple=True,
    help="Images of nothing that is cached, a folder or a dataset (its train split), to choose novelty on too; may be "
    "repeated.",
)


def describe_novelty(manifest: Manifest) -> Iterator[str]:
    """By what novel images are told, how they stand that are not, and what to beware of."""
    calibration = manifest.calibration
    if calibration is None:
        return
    novelty = calibration.novelty
    tried = next((one for one in novelty.candidates if one.score == novelty.score), None)
    if tried is not None and tried.auroc:
        told = ", ".join(f"{kind} {auroc:.1f}" for kind, auroc in tried.auroc.items())
        yield f"novelty by {novelty.score}, of {len(novelty.candidates)} scores tried: AUROC % {told}"
    if calibration.standing is not None:
        shares = ", ".join(f"{share:.1f} % {kind}" for kind, share in calibration.standing.items())
        yield f"of the holdout's images {shares}"
    if novelty.blind_to:
        yield (
            f"warning: no score tells {' or '.join(novelty.blind_to)} from known images better than chance: what is "
            "called known may be anything; name images like those to come with --unknown"
        )
