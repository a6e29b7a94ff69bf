"""One run of ``reproduce`` as one self-contained page: first what holds, then every figure, then how it came about."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secondlook.evaluation.paper.claims import Claim
from secondlook.evaluation.paper.subjects import AS_IS
from secondlook.indexer.plots import GRID, INK, MODELS
from secondlook.indexer.results import Table

TITLES = {
    "errors": ("Errors", "The paper's first figure: how often, and how surely, each model is wrong."),
    "curves": ("How large a cache, and which layer", "Error by the share of the training images cached, and by layer."),
    "attacks": ("Adversarial images", "The second figure: images that fool the network, shown to all three models."),
    "white-box": ("Attacks through the cache", "Beyond the paper: each model attacked through its own gradient."),
    "jacobian": ("Jacobians", "The third figure: how sharply the probabilities move with the pixels."),
    "shift": (
        "Natural shift",
        "Beyond the paper: families of CIFAR-10-C generated here, and caches refilled with them.",
    ),
}


@dataclass(frozen=True)
class Drawn:
    """A figure as an ``<svg>`` element."""

    name: str
    title: str
    alt: str
    width: float
    """Inches."""
    svg: str


@dataclass(frozen=True)
class Built:
    """A cache that the figures were measured on."""

    subject: str
    recipe: str
    generation: str
    dataset: str
    entries: int
    dim: int
    store: str
    keys_mb: float
    theta: float
    lam: float
    k: int | None
    fitted: bool
    network_sha256: str
    keys_sha256: str
    dataset_sha256: str


@dataclass(frozen=True)
class Measured:
    """One step's result."""

    subject: str
    recipe: str
    step: str
    seconds: float
    command: str
    result: dict[str, Any]
    tables: list[Table]
    figures: list[Drawn]
    claims: list[Claim]


@dataclass
class Report:
    """Everything that a run has measured so far."""

    command: str
    preset: str
    started: str
    quick: bool
    plan: dict[str, Any]
    machine: str
    device: str
    versions: dict[str, str]
    finished: str | None = None
    built: list[Built] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def subjects(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(built.subject for built in self.built))

    @property
    def missed(self) -> list[str]:
        """Published errors that were not met."""
        return [
            f"{m.subject}, {m.recipe}: {claim.evidence}"
            for m in self.measured
            for claim in m.claims
            if claim.text.startswith("The published") and claim.holds is False
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: everything but the drawings."""
        return {
            **{name: getattr(self, name) for name in ("command", "preset", "started", "finished", "quick", "plan")},
            "machine": self.machine,
            "device": self.device,
            "versions": self.versions,
            "built": [asdict(built) for built in self.built],
            "measured": [
                {
                    "subject": m.subject,
                    "recipe": m.recipe,
                    "step": m.step,
                    "seconds": m.seconds,
                    "command": m.command,
                    "claims": [asdict(claim) for claim in m.claims],
                    "result": m.result,
                }
                for m in self.measured
            ],
            "failed": self.failed,
        }


def page(report: Report) -> str:
    """Write the page; every text is escaped, nothing is fetched from anywhere."""
    parts = [_head(report)]
    for subject in report.subjects:
        recipes = [built.recipe for built in report.built if built.subject == subject]
        parts.append(f'<section><h2 id="{_id(subject)}">{_text(subject)}</h2>')
        parts.append(_summary(report, subject, recipes))
        parts.append(_caches(report, subject))
        for step in TITLES:
            measured = [m for m in report.measured if m.subject == subject and m.step == step]
            if measured:
                parts.append(_step(step, measured))
        parts.append("</section>")
    parts.append(_provenance(report))
    colours = "".join(f"--{name}: {value}; " for name, value in _COLOURS.items())
    style = f":root {{ {colours}}}\n{Path(__file__).with_name('report.css').read_text()}"
    return _PAGE.format(style=style, title="secondlook: the paper's figures", body="\n".join(parts))


def _head(report: Report) -> str:
    amount = (
        "<p class='lead'><strong>A quick run.</strong> The caches hold "
        f"{report.plan['cached']:,} training images instead of all and their mirrored copies, and few images are "
        "asked; theta, lam and k are fitted to these caches. Errors are higher, intervals wider than those of a whole "
        "run.</p>"
        if report.quick and report.plan.get("cached")
        else ""
    )
    state = (
        "" if report.finished else "<p class='lead'><strong>Not finished:</strong> this is what is there so far.</p>"
    )
    wrong = "".join(f"<li>{_text(line)}</li>" for line in report.failed)
    failed = f"<p class='lead'><strong>Could not be measured:</strong></p><ul>{wrong}</ul>" if wrong else ""
    return (
        "<header><h1>Does the cache help? The paper's figures, measured again</h1>"
        "<p class='lead'>A. E. Orhan, <cite>A Simple Cache Model for Image Recognition</cite> (NeurIPS 2018): a "
        "network's probabilities are mixed with a vote of cached training images. Three models are compared: "
        f"{_legend()}.</p>{amount}{state}{failed}</header>"
    )


def _legend() -> str:
    return ", ".join(
        f'<span class="model" style="--c: var(--{name})">{_text(style.label)}</span>' for name, style in MODELS.items()
    )


def _summary(report: Report, subject: str, recipes: list[str]) -> str:
    rows: dict[str, dict[str, Claim]] = {}
    for measured in report.measured:
        if measured.subject == subject:
            for claim in measured.claims:
                rows.setdefault(claim.text, {})[measured.recipe] = claim
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{_text(_recipe_title(report, subject, recipe))}</th>' for recipe in recipes)
    body = ""
    for text, by_recipe in rows.items():
        cells = "".join(
            f'<td data-recipe="{_text(recipe)}">{_verdict(by_recipe[recipe])}</td>'
            if recipe in by_recipe
            else f'<td data-recipe="{_text(recipe)}" class="none">not measured</td>'
            for recipe in recipes
        )
        body += f'<tr><th scope="row">{_text(text)}</th>{cells}</tr>'
    return (
        '<div class="table"><table class="claims"><caption>What holds here</caption>'
        f'<thead><tr><th scope="col">claim</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="note">In brackets 95 % intervals over images. Not decided: the interval reaches over no difference. '
        "Attacks: what withstands these attacks may give way to others.</p>"
    )


def _recipe_title(report: Report, subject: str, recipe: str) -> str:
    built = next(b for b in report.built if (b.subject, b.recipe) == (subject, recipe))
    name = "the bundle as it is" if recipe == AS_IS else f"{recipe} recipe"
    return f"{name}: {built.dim:,} numbers a key"


def _verdict(claim: Claim) -> str:
    kind, sign, word = {
        True: ("yes", "✓", "holds"),
        False: ("no", "✕", "does not hold"),
        None: ("open", "?", "not decided"),
    }[claim.holds]
    return (
        f'<span class="verdict {kind}"><span aria-hidden="true">{sign}</span> {word}</span>'
        f"<span class='evidence'>{_text(claim.evidence)}</span>"
    )


def _caches(report: Report, subject: str) -> str:
    rows = tuple(
        (
            b.recipe,
            b.dataset,
            f"{b.entries:,}",
            f"{b.dim:,}",
            f"{b.keys_mb:,.1f}",
            b.store,
            f"{b.theta:g}",
            f"{b.lam:g}",
            str(b.k or "all"),
            "on the holdout" if b.fitted else "as published",
        )
        for b in report.built
        if b.subject == subject
    )
    columns = ("recipe", "cached", "entries", "numbers a key", "MB of keys", "store", "theta", "lam", "k", "fitted")
    return Table("The caches", columns, rows).html()


def _step(step: str, measured: list[Measured]) -> str:
    title, about = TITLES[step]
    parts = [f"<section><h3>{_text(title)}</h3><p>{_text(about)}</p>"]
    parts += [table.html() for table in _beside(measured)]
    names = list(dict.fromkeys(figure.name for m in measured for figure in m.figures))
    for name in names:
        shown = [(m.recipe, figure) for m in measured for figure in m.figures if figure.name == name]
        wide = " wide" if any(figure.width > 8.5 for _, figure in shown) else ""
        parts.append(f'<div class="figures{wide}">')
        for recipe, figure in shown:
            caption = figure.title if len(shown) == 1 else f"{recipe}: {figure.title}"
            parts.append(
                f'<figure style="--w: {figure.width:g}in"><figcaption>{_text(caption)}</figcaption>'
                f'<div class="drawn">{figure.svg}</div></figure>'
            )
        parts.append("</div>")
    commands = "".join(
        f"<li><code>{_text(m.command)}</code> <span class='note'>({m.recipe}, {m.seconds:,.0f} s here)</span></li>"
        for m in measured
    )
    parts.append(f"<details><summary>Commands and times</summary><ul>{commands}</ul></details></section>")
    return "".join(parts)


def _beside(measured: list[Measured]) -> list[Table]:
    """Tables of the same columns under several recipes as one, a recipe below the other."""
    if len(measured) == 1:
        return measured[0].tables
    groups: dict[tuple[int, tuple[str, ...]], list[tuple[str, Table]]] = {}
    for m in measured:
        for place, table in enumerate(m.tables):
            groups.setdefault((place, table.columns), []).append((m.recipe, table))
    joined = []
    for (_, columns), tables in sorted(groups.items(), key=lambda group: group[0][0]):
        first = tables[0][1]
        rows = tuple((recipe, *row) for recipe, table in tables for row in table.rows)
        same = {table.note for _, table in tables}
        note = first.note if len(same) == 1 else "\n".join(f"{recipe}: {table.note}" for recipe, table in tables)
        joined.append(Table(first.title, ("recipe", *columns), rows, note, first.names + 1))
    return joined


def _provenance(report: Report) -> str:
    rows = [
        ("command", report.command),
        ("preset", report.preset),
        ("started, finished (UTC)", f"{report.started}, {report.finished or 'not yet'}"),
        ("machine", report.machine),
        ("device", report.device),
        ("versions", ", ".join(f"{name} {found}" for name, found in report.versions.items())),
        ("plan", ", ".join(f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in report.plan.items())),
    ]
    for built in report.built:
        which = f"{built.subject}, {built.recipe}"
        rows.append((f"{which}: generation", built.generation))
        rows.append((f"{which}: SHA-256 of the network", built.network_sha256))
        rows.append((f"{which}: SHA-256 of the keys", built.keys_sha256))
        rows.append((f"{which}: SHA-256 of the images", built.dataset_sha256))
    body = "".join(f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in rows)
    return (
        '<section><h2 id="provenance">How it came about</h2><div class="table"><table class="plain"><tbody>'
        f"{body}</tbody></table></div></section>"
    )


def _plain(value: object) -> str:
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _text(text: str) -> str:
    return html.escape(text)


def _id(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)


_COLOURS = {
    "paper": "#ffffff",
    "ink": INK,
    "soft": "#5a5a5a",
    "line": "#d5d5d5",
    "grid": GRID,
    "band": "#f5f5f3",
    **{name: style.colour for name, style in MODELS.items()},
    "yes": "#0072B2",
    "no": "#B34700",
}
"""On a light page; report.css has those of a dark one."""

_PAGE = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    "<title>{title}</title><style>{style}</style></head><body>\n{body}\n</body></html>\n"
)
