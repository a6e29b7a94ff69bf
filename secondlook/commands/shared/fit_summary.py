"""What was fitted for a bundle, as commands say it."""

from __future__ import annotations

from collections.abc import Iterator

from secondlook.model.answering.doubt import fewest_images
from secondlook.model.intervals import wilson
from secondlook.model.manifest import Manifest


def describe_parameters(manifest: Manifest) -> Iterator[str]:
    """Say what parameters were chosen, on what, and what the cache gains."""
    report, on = manifest.fit, manifest.holdout
    chosen = f"theta {manifest.theta:g}, lam {manifest.lam:g}, k {manifest.k or 'all'}"
    if report is None or on is None:
        yield f"{chosen}, as given"
        return
    if manifest.parameters_from == "leave-one-out":
        why_lam = "a cautious half" if manifest.has_head else "1, as the network has no head"
        yield (
            f"{chosen}: no honest holdout ({on.name}: {on.why}); theta and k are fitted by leave-one-out of "
            f"{report.images:,} cached images, of which the cache alone gets {report.chosen_error_percent:.2f} % "
            f"wrong, and lam is {why_lam}; doubt is not calibrated: give --holdout images that the network never saw"
        )
        return
    errors = wilson(round(report.chosen_error_percent * report.images / 100), report.images)
    of, alone = "held-out images", "the linear head" if manifest.head == "linear" else "the network"
    if manifest.parameters_from == "cross-validation":
        of = "images, each asked of the others"
    yield (
        f"{chosen}: {report.chosen_error_percent:.2f} % error ({100 * errors.low:.2f} to {100 * errors.high:.2f}) on "
        f"{report.images:,} {of} ({on.name}: {on.why}), "
        + (
            "the network has no head"
            if report.network_error_percent is None
            else f"{alone} alone {report.network_error_percent:.2f} %"
        )
    )
    if on.left_out:
        yield f"{on.left_out:,} images of {on.name} were left out: they are cached, or the network was trained on them"
    if report.gains is False:
        yield _no_gain(manifest)
    if on.images < fewest_images(0.99):
        promised = [f"{100 * share:g} %" for share in (0.9, 0.95, 0.99) if on.images < fewest_images(share)]
        yield f"{on.images:,} images are too few to promise sets of {', '.join(promised)}: those are refused"


def describe_novelty(manifest: Manifest) -> Iterator[str]:
    """Say by what novel images are told, how those stand that are not, and what to beware of."""
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


def describe_engines(manifest: Manifest) -> Iterator[str]:
    """Say which reduced precisions may answer, and what they change."""
    for one in manifest.engines:
        yield (
            f"{one.engine} {'keeps the answers' if one.allowed else 'is refused'}: {one.why}; "
            f"error {one.float32_error_percent:.2f} -> {one.error_percent:.2f} % of {one.images:,} images, "
            f"{one.same_top1_percent:.1f} % the same first class, cosine of keys {one.cosine_mean:.4f} "
            f"(at least {one.cosine_least:.4f})"
        )


def _no_gain(manifest: Manifest) -> str:
    """What the cache gains where it saves no errors."""
    report = manifest.fit
    assert report is not None
    if manifest.lam == 0:
        return "the cache gains nothing here, lam is 0: the network answers alone, and the cache shows neighbours"
    said = "the cache is not seen to save errors here"
    if report.network_nll is None or report.network_ece_percent is None or report.chosen_ece_percent is None:
        return said
    return (
        f"{said}; negative log-likelihood {report.network_nll:.4f} -> {report.chosen_nll:.4f}, "
        f"ECE {report.network_ece_percent:.2f} -> {report.chosen_ece_percent:.2f} %"
    )
