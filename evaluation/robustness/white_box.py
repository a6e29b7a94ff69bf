"""Attacks that follow the gradient of the very model they are made against, the cache's vote included.

All are bounded in the largest change of a pixel (L-inf), in units of 0 to 255, and stay images (0 to 255, not rounded).

``fgsm``  one step of the whole size (Goodfellow et al., 2015).
``pgd``   steps of a fixed size from a random start (Madry et al., 2018).
``apgd``  steps that halve where the loss stalls, going on from the best point (Croce and Hein, 2020), with momentum;
          on the cross-entropy, and on the difference of logits ratio (DLR), which does not fade where a model is sure.

The ensemble is pgd, apgd on the cross-entropy and apgd on DLR in turn, each on what withstood those before it: the
gradient part of AutoAttack, without its decision-based part and with fewer steps, and so a bound from above on what
would withstand a patient attacker.

Gradients are those of the sum over all entries. Where only the nearest vote, that is the smooth function nearby (which
entries are nearest has no gradient); whether an image is fooled is asked of the vote among the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secondlook.evaluation.robustness.models import NAMES, Models, Name
from secondlook.indexer.progress import Progress, silent

AT_ONCE = 64
STEPS = 20
TRANSFER_STEPS = 10
EPSILONS = (0.25, 0.5, 1.0, 2.0, 4.0)

Loss = Callable[[Tensor, Tensor], Tensor]
"""Log-probabilities (B,C) and labels (B,) -> (B,), larger the more the model errs."""


@dataclass(frozen=True)
class Bounded:
    """Images changed by at most epsilon a pixel, and which models still classify them right."""

    method: str
    target: Name
    """The model whose gradient was followed."""
    epsilon: float
    """In units of 0 to 255."""
    right: dict[str, NDArray[np.bool_]]
    """For each model that was asked, (N,)."""


def cross_entropy(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-probability of the label."""
    return -log_probabilities.gather(1, labels[:, None])[:, 0]


def dlr(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (Croce and Hein, 2020, equation 6); log-probabilities are logits less a constant.

    With two classes there is no third logit to measure the difference by: it stays as it is.
    """
    own = log_probabilities.gather(1, labels[:, None])[:, 0]
    ranked = log_probabilities.sort(dim=1, descending=True).values
    is_first = log_probabilities.argmax(1) == labels
    difference = torch.where(is_first, ranked[:, 1], ranked[:, 0]) - own
    if log_probabilities.shape[1] < 3:
        return difference
    return difference / (ranked[:, 0] - ranked[:, 2] + 1e-12)


class _Look(NamedTuple):
    losses: Tensor
    gradients: Tensor
    fooled: Tensor


def look(models: Models, target: Name, loss: Loss, images: Tensor, labels: Tensor) -> _Look:
    """Losses (B,), their gradients in the images (B,H,W,3), and which images the target, as it answers, gets wrong."""
    images = images.detach().requires_grad_()
    logits, keys = models.encode(images)
    answer = models.log_opinion(target, logits, keys, None)
    losses = loss(answer, labels)
    (gradients,) = torch.autograd.grad(losses.sum(), images)
    fooled = answer.argmax(1) != labels
    if target != "network" and models.k is not None and fooled.any():
        with torch.no_grad():
            nearest = models.log_opinion(target, logits[fooled], keys[fooled], models.k)
        fooled[fooled.clone()] = nearest.argmax(1) != labels[fooled]
    return _Look(losses.detach(), gradients, fooled)


def fgsm(models: Models, target: Name, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Take one step of the whole size."""
    slope = look(models, target, cross_entropy, images, labels).gradients.sign()
    return (images + epsilon * slope).clamp(0, 255)


def pgd(
    models: Models,
    target: Name,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int = STEPS,
    random: torch.Generator | None = None,
    to_the_end: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return changed images, and which of them fool the target; those that do stay as they are unless ``to_the_end``.

    To the end, loss is driven as high as it goes: such images carry over to other models.
    """
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=255)
    changed = _start(images, low, high, random)
    fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    left = torch.arange(len(images), device=images.device)
    for step in range(steps + 1):
        seen = look(models, target, cross_entropy, changed[left], labels[left])
        fooled[left] = seen.fooled
        if step == steps:
            break
        on = torch.ones_like(seen.fooled) if to_the_end else ~seen.fooled
        left = left[on]
        if not len(left):
            break
        moved = changed[left] + 2.5 * epsilon / steps * seen.gradients[on].sign()
        changed[left] = moved.clamp(low[left], high[left])
    return changed, fooled


def apgd(
    models: Models,
    target: Name,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    loss: Loss,
    *,
    steps: int = STEPS,
    random: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return changed images, and which of them fool the target; an image that does is left as it is.

    Momentum 0.75, and a step halved where less than 0.75 of the steps since the last look-back raised the loss, or
    where neither step nor best loss has changed since: the constants of the paper.
    """
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=255)
    changed = _start(images, low, high, random)
    fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    left = torch.arange(len(images), device=images.device)
    x = before = best = changed.clone()
    best_loss = torch.full((len(images),), -torch.inf, device=images.device)
    best_slope = torch.zeros_like(images)
    previous, checked = best_loss.clone(), best_loss.clone()
    size = torch.full((len(images), 1, 1, 1), 2 * epsilon, device=images.device)
    raised = torch.zeros_like(best_loss)
    just_halved = torch.zeros_like(fooled)
    checkpoints = _checkpoints(steps)
    last = 0
    for step in range(steps + 1):
        seen = look(models, target, loss, x, labels[left])
        changed[left[seen.fooled]] = x[seen.fooled]
        fooled[left] = seen.fooled
        on = ~seen.fooled
        left = left[on]
        if not len(left) or step == steps:
            break
        x, before, best, best_loss, best_slope = (t[on] for t in (x, before, best, best_loss, best_slope))
        previous, checked, size, raised, just_halved = (t[on] for t in (previous, checked, size, raised, just_halved))
        losses, slope = seen.losses[on], seen.gradients[on].sign()
        if step:
            raised += losses > previous
        previous = losses
        better = losses > best_loss
        best_loss = torch.where(better, losses, best_loss)
        best = torch.where(better[:, None, None, None], x, best)
        best_slope = torch.where(better[:, None, None, None], slope, best_slope)
        if step in checkpoints:
            stalled = (raised < 0.75 * (step - last)) | (~just_halved & (best_loss <= checked))
            back = stalled[:, None, None, None]
            size = torch.where(back, size / 2, size)
            x, slope = torch.where(back, best, x), torch.where(back, best_slope, slope)
            before = torch.where(back, best, before)
            checked, just_halved, last = best_loss, stalled, step
            raised = torch.zeros_like(raised)
        bottom, top = low[left], high[left]
        stepped = (x + size * slope).clamp(bottom, top)
        share = 1.0 if step == 0 else 0.75
        x, before = (x + share * (stepped - x) + (1 - share) * (x - before)).clamp(bottom, top), x
    return changed, fooled


def _start(images: Tensor, low: Tensor, high: Tensor, random: torch.Generator | None) -> Tensor:
    if random is None:
        return images.clone()
    # Drawn on the processor, so that a seed means the same on every device.
    drawn = torch.rand(images.shape, generator=random).to(images.device)
    return low + drawn * (high - low)


def _checkpoints(steps: int) -> set[int]:
    """Steps at which apgd looks back: 0.22 of all, then intervals shorter by 0.03 each, 0.06 at least."""
    marks, interval = [22], 22  # in hundredths: 0.57 of 100 steps is 57, which rounding makes 57.000001
    while marks[-1] < 100:
        interval = max(interval - 3, 6)
        marks.append(marks[-1] + interval)
    return {-(-mark * steps // 100) for mark in marks if mark < 100}


def transfer(
    models: Models,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float] = EPSILONS,
    progress: Progress = silent,
) -> list[Bounded]:
    """What all three models say of images made against the network, by fgsm and by pgd to the end, of each size."""
    found: list[Bounded] = []
    done, total = 0, 2 * len(epsilons) * len(images)
    for method in ("fgsm", "pgd"):
        for epsilon in epsilons:
            random = torch.Generator().manual_seed(0)
            right: list[dict[str, NDArray[np.bool_]]] = []
            for rows in _batches(len(images)):
                x, y = images[rows], labels[rows]
                if method == "fgsm":
                    changed = fgsm(models, "network", x, y, epsilon)
                else:
                    changed, _ = pgd(
                        models, "network", x, y, epsilon, steps=TRANSFER_STEPS, random=random, to_the_end=True
                    )
                right.append(are_right(models, changed, y))
                done += len(x)
                progress("transfer", done, total)
            joined: dict[str, NDArray[np.bool_]] = {
                name: np.concatenate([part[name] for part in right]) for name in NAMES
            }
            found.append(Bounded(method, "network", epsilon, joined))
    return found


def white_box(
    models: Models,
    images: Tensor,
    labels: Tensor,
    epsilons: Sequence[float] = EPSILONS,
    targets: Sequence[Name] = NAMES,
    progress: Progress = silent,
) -> list[Bounded]:
    """For each target and size: which images withstand pgd, and which the ensemble, made against that very target.

    An image that gives way at one size gives way at all larger ones, whose bounds hold the same changed image.
    """
    clean: dict[str, Tensor] = {name: torch.zeros(len(images), dtype=torch.bool) for name in NAMES}
    for rows in _batches(len(images)):
        for name, right in are_right(models, images[rows], labels[rows]).items():
            clean[name][rows] = torch.from_numpy(right)
    found: list[Bounded] = []
    done, total = 0, len(targets) * len(epsilons)
    for target in targets:
        withstood = {"pgd": clean[target].clone(), "ensemble": clean[target].clone()}
        for epsilon in sorted(epsilons):
            random = torch.Generator().manual_seed(0)
            for loss in (None, cross_entropy, dlr):
                stage = withstood["ensemble" if loss else "pgd"]
                for part in torch.split(stage.nonzero()[:, 0], AT_ONCE):
                    x, y = images[part], labels[part]
                    if loss is None:
                        _, fooled = pgd(models, target, x, y, epsilon, steps=STEPS, random=random)
                    else:
                        _, fooled = apgd(models, target, x, y, epsilon, loss, steps=STEPS, random=random)
                    stage[part] = ~fooled.cpu()
                withstood["ensemble"] &= withstood["pgd"]
            for method, stage in withstood.items():
                found.append(Bounded(method, target, epsilon, {target: stage.numpy().copy()}))
            done += 1
            progress("white box", done, total)
    return found


def are_right(models: Models, images: Tensor, labels: Tensor) -> dict[str, NDArray[np.bool_]]:
    """For each model (B,): whether it classifies the images right, as it answers."""
    with torch.no_grad():
        opinions = models(images)
    return {name: (given.argmax(1) == labels).cpu().numpy() for name, given in zip(NAMES, opinions, strict=True)}


def _batches(count: int) -> list[slice]:
    return [slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)]
