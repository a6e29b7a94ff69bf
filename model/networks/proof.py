"""What labelled images said of a network's preprocessing: data, kept with what was made by it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from secondlook.model.networks.preprocess import Preprocess

Answer = Literal["confirmed", "beaten", "cannot tell"]
FEWEST = 30
"""Images below which nothing is told."""
Judge = Literal["head", "table", "neighbours"]
"""Who was asked (``indexer.fitting.evidence``)."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tried(_Record):
    """One preprocessing that was tried."""

    said: str
    """What it is called, in a few words."""
    preprocess: Preprocess
    nll: float
    """How surprised the judges are by the images' labels: the mean of their negative log-likelihoods."""
    behind: float
    """Standard errors by which it is worse than the first one tried; negative where it is better."""
    images: int
    """On how many; fewer than all where it was left behind early."""
    cost: float = Field(default=1.0, gt=0)
    """The network's work for an image, times that of the first one tried."""

    @property
    def speed(self) -> str:
        """What it leaves of the network's speed, in a few words."""
        return "at the same speed" if self.cost == 1 else f"at {1 / self.cost:.2g} of the speed"


class PreprocessProof(_Record):
    """What labelled images say."""

    images: int
    by: tuple[Judge, ...]
    answer: Answer
    """Of the arithmetic that is declared, or that most networks take where none is."""
    arithmetic: tuple[Tried, ...]
    """The declared one, then the others, best first."""
    better: Tried | None = None
    """The arithmetic that does best, where that is not the first one."""
    geometry: tuple[Tried, ...] = ()
    """The declared one with the best arithmetic, then the others, best first; none where they were not tried."""
    suggestion: Tried | None = None
    """A geometry that is clearly better, where a head depends on the declared one."""
    choice: Tried | None = None
    """What is taken instead of the declared geometry, where no logits of the network are used and it is better; held to
    the declared one by neighbours alone."""

    @property
    def declared(self) -> Preprocess:
        """What was held to the images."""
        return self.arithmetic[0].preprocess

    @property
    def best(self) -> Preprocess:
        """What to give instead of what is declared and beaten; what to take where nothing is declared.

        The geometry stays the declared one: see ``suggestion`` and ``choice``.
        """
        if self.declared.is_certain:
            return self.declared
        is_free = not self.declared.is_declared and self.images >= FEWEST
        if self.better is None or not (is_free or self.answer == "beaten"):
            return self.declared
        return self.better.preprocess.model_copy(update={"read_from": f"measured on {self.images:,} images"})

    @property
    def taken(self) -> Preprocess:
        """What to index with: ``best``, shown as the choice says."""
        if self.choice is None:
            return self.best
        chosen = self.choice.preprocess
        return self.best.model_copy(update={"geometry": chosen.geometry, "mirrored": chosen.mirrored})

    def choice_said(self) -> str:
        """What is chosen, why, and at what cost: ``..., squash, bicubic: leave-one-out NLL .441 against .515 ...``."""
        assert self.choice is not None
        nlls = " against ".join(f"{tried.nll:.3f}".lstrip("0") for tried in (self.choice, self.geometry[0]))
        return (
            f"{self.choice.preprocess.views}: leave-one-out NLL {nlls} on {self.choice.images:,} photos, "
            f"{self.choice.speed}"
        )

    def refusal(self, network: str) -> str | None:
        """Why the declared arithmetic is not to be used, and what to type; None where nothing speaks against it."""
        is_told = self.declared.is_declared and not self.declared.is_certain
        if self.answer != "beaten" or not is_told or self.better is None:
            return None
        return (
            f"{network} is given {self.declared.arithmetic} ({self.declared.read_from}), but on {self.images:,} of the "
            f"images {self.better.preprocess.arithmetic} does clearly better ({self._figures(self.better)}): give it "
            f"with --preprocess FILE.json, which secondlook network {network} --images PHOTOS --write-preprocess "
            'FILE.json writes; a FILE.json with "is_certain": true is taken whatever images say'
        )

    def said(self) -> str:
        """What the images say, in a sentence or two."""
        better, is_declared = self.better, self.declared.is_declared
        what = "what is declared" if is_declared else "what most networks take"
        if self.declared.is_published:
            said = "pixels: as those who trained the network published it."
        elif self.answer == "confirmed":
            said = f"pixels: the images confirm {what}."
        elif better is None:
            said = f"pixels: the images cannot tell, but nothing does better than {what}."
        elif self.answer == "beaten":
            said = f"pixels: {what} is clearly beaten by {better.preprocess.arithmetic} ({self._figures(better)})"
            said += (
                "." if not is_declared else ": write it with --write-preprocess FILE.json, give --preprocess FILE.json."
            )
        else:
            said = (
                f"pixels: the images cannot tell, though {better.preprocess.arithmetic} does a little better "
                f"({self._figures(better)}): give more of them, or --preprocess FILE.json."
            )
        if self.suggestion is not None:
            said += f"\ngeometry: {self.suggestion.preprocess.geometry} does clearly better on these images."
        if self.choice is not None:
            said += (
                f"\ngeometry, which no head depends on where the network's logits are not used: {self.choice_said()}."
            )
        return said

    def _figures(self, better: Tried) -> str:
        nlls = f"{better.nll:.3f} against {self.arithmetic[0].nll:.3f}"
        return f"mean negative log-likelihood {nlls}, {-better.behind:.1f} standard errors"
