"""What labelled images said of a network's preprocessing: data, kept with what was made by it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

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
    """A geometry that is clearly better."""

    @property
    def declared(self) -> Preprocess:
        """What was held to the images."""
        return self.arithmetic[0].preprocess

    @property
    def best(self) -> Preprocess:
        """What to give instead of what is declared and beaten; what to take where nothing is declared.

        The geometry stays the declared one: see ``suggestion``.
        """
        if self.declared.is_certain:
            return self.declared
        is_free = not self.declared.is_declared and self.images >= FEWEST
        if self.better is None or not (is_free or self.answer == "beaten"):
            return self.declared
        return self.better.preprocess.model_copy(update={"read_from": f"measured on {self.images:,} images"})

    def taken(self, *, has_head: bool) -> Preprocess:
        """What to index with: ``best``, with the suggested geometry where no head depends on the declared one."""
        if has_head or self.suggestion is None or self.declared.is_certain:
            return self.best
        return self.best.model_copy(update={"geometry": self.suggestion.preprocess.geometry})

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
        return said

    def _figures(self, better: Tried) -> str:
        nlls = f"{better.nll:.3f} against {self.arithmetic[0].nll:.3f}"
        return f"mean negative log-likelihood {nlls}, {-better.behind:.1f} standard errors"
