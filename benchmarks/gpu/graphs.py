"""Whether CUDA graphs, torch.compile or weights kept in bfloat16 gain over the engine as it is, with its answers."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.engines import batches
from benchmarks.gpu.plan import Clock, Found, LeftOut, Plan
from benchmarks.gpu.subjects import Subject, cifar, imagenet, made
from secondlook.evaluation.timing import repeated

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B,H,W,3) uint8 on the device -> logits and keys, float32, there."""
BOUND, BOUND_RANDOM = 0.05, 0.5
"""Of the largest logit: both sides are bfloat16 and round in another order, which random weights make larger."""
COMPILE_SECONDS = 60.0
"""That must be left for a compilation to be begun."""


def graphs(plan: Plan, clock: Clock) -> Iterator[Found | LeftOut]:
    """Each way of running an encoder, by batch: milliseconds from images in main memory to answers there."""
    for subject in (cifar(), imagenet("resnet50", plan)):
        name = subject.name.partition(",")[0].partition(" ")[0]
        bare = _forward(subject, plan.device, keeps_bfloat16=False)
        kept = _forward(subject, plan.device, keeps_bfloat16=True)
        yield _timed(f"{name}: as served", bare, None, subject, plan)
        yield _timed(f"{name}: weights in bfloat16", kept, bare, subject, plan)
        for way, reason in (
            ("CUDA graph", "" if plan.device == "cuda" else "it needs CUDA"),
            ("torch.compile", _why_not_compiled(plan, clock)),
        ):
            if reason:
                yield LeftOut(f"{name}: {way}", reason)
            elif way == "CUDA graph":
                yield _timed(f"{name}: {way}", _Graphs(kept), bare, subject, plan)
            else:
                compiled: Forward = torch.compile(kept)
                yield _timed(f"{name}: {way}", compiled, bare, subject, plan)


def _why_not_compiled(plan: Plan, clock: Clock) -> str:
    if plan.quick:
        return "compiling takes longer than a quick run may"
    if clock.left < COMPILE_SECONDS:
        return f"less than {COMPILE_SECONDS:.0f} s were left for compiling"
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "there is no C compiler"
    return ""


def _forward(subject: Subject, device: str, *, keeps_bfloat16: bool) -> Forward:
    """The encoder as ``TorchEngine`` runs it in bfloat16; or with its weights cast once, and not in every call."""
    encoder = copy.deepcopy(subject.encoder).to(device).to(memory_format=torch.channels_last)
    network, layers = encoder.network, encoder.recipe.all_layers
    if keeps_bfloat16:
        for name, module in network.named_children():
            if name in ("stem", "stages", "features", "head"):
                module.to(torch.bfloat16)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        given = network.normalize(images)
        if keeps_bfloat16:
            logits, seen = network.activations(given.bfloat16(), layers)
        else:
            # Without the cache of casts, which a captured graph could not use.
            with torch.autocast(torch.device(device).type, torch.bfloat16, cache_enabled=False):
                logits, seen = network.activations(given, layers)
        return logits.float(), encoder.keys({layer: activation.float() for layer, activation in seen.items()})

    return forward


class _Graphs:
    """A forward pass captured once for each batch size, and replayed."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, Tensor]]] = {}

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) not in self._captured:
            self._captured[len(images)] = self._capture(images)
        graph, given, answers = self._captured[len(images)]
        given.copy_(images)
        graph.replay()
        return answers

    def _capture(self, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, Tensor]]:
        given = images.clone()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # whatever is set up in the first calls cannot be captured
                self._forward(given)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answers = self._forward(given)
        return graph, given, answers


def _timed(name: str, forward: Forward, reference: Forward | None, subject: Subject, plan: Plan) -> Found:
    images = made(max(batches(plan)), subject.size)
    milliseconds: dict[str, float] = {}
    difference = 0.0
    with torch.inference_mode():
        for batch in batches(plan):
            given = torch.from_numpy(images[:batch])
            if plan.device == "cuda":
                given = given.pin_memory()

            def work(given: Tensor = given) -> tuple[Tensor, Tensor]:
                logits, keys = forward(given.to(plan.device, non_blocking=True))
                return logits.cpu(), keys.cpu()

            logits = work()[0]
            if reference is not None:
                expected = reference(given.to(plan.device))[0].cpu()
                difference = max(difference, float((logits - expected).abs().max() / expected.abs().max()))
            work()
            milliseconds[str(batch)] = 1000 * float(np.median(repeated(work, plan.seconds)))
    values = {"milliseconds": milliseconds}
    if reference is None:
        return Found(name, values)
    agrees = difference <= (BOUND if subject.is_trained else BOUND_RANDOM)
    why = "" if agrees else f"logits differ by {difference:.2g} of the largest from those as served"
    return Found(name, values | {"logits_difference": difference}, agrees, why)
