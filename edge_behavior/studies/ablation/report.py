"""Writes ablation.json, ablation.md and ablation.html of what is done so far.

The page is one file; labels and names are escaped by the template, plots escape their own text.
"""

from __future__ import annotations

from markupsafe import Markup

from edge_behavior import __version__
from edge_behavior.core.candidates import GROUPS
from edge_behavior.data.dataset import Dataset
from edge_behavior.errors import EdgebError
from edge_behavior.evaluation.protocols import PROTOCOLS
from edge_behavior.studies.ablation import texts
from edge_behavior.studies.ablation.folder import AblationFolder
from edge_behavior.studies.ablation.summary import (
    AblationSummary,
    SeedStatistic,
    Setting,
    StudiedDataset,
    StudySummary,
    summarize,
)
from edge_behavior.train.report import plots
from edge_behavior.train.report.plots import Estimate
from edge_behavior.train.report.summary import STANDIN_NOTE, split_sentence, templates
from edge_behavior.train.run.folder import write_json, write_text

_PLOTTED = ("overall", *GROUPS)


def write_ablation(folder: AblationFolder) -> AblationSummary:
    """Write the three files, replacing earlier ones.

    Raises:
        EdgebError: no ablation there, or its dataset has changed.
    """
    asked = folder.read()
    dataset = Dataset.open(asked.dataset)
    if dataset.fingerprint != asked.fingerprint:
        raise EdgebError(f"{asked.dataset} has changed since {folder.path} was started", "use another --out")
    recipe = asked.recipe
    setting = Setting(
        edgeb=__version__,
        recipe=recipe.name,
        method=recipe.method_title,
        backbone="stand-in" if recipe.backbone.path is None else recipe.backbone.path,
        dataset=StudiedDataset(
            name=dataset.info.source.name,
            fingerprint=dataset.fingerprint,
            behaviors=len(dataset.candidates),
            splits=dataset.info.to_dict()["splits"],
            split=split_sentence(dataset),
        ),
        notes=(STANDIN_NOTE,) if recipe.backbone.path is None else (),
        base_recipe=recipe.model_dump(),
    )
    summary = summarize(folder, asked.plan(), setting, recipe.a_tuning.anchor_threshold)
    write_json(folder.path / "ablation.json", summary.to_dict())
    write_text(folder.path / "ablation.md", texts.render_markdown(summary))
    write_text(folder.path / "ablation.html", render_html(summary, recipe.to_yaml()))
    return summary


def render_html(summary: AblationSummary, recipe_text: str) -> str:
    """The page: no script, and no reference to anything outside it."""
    studies = [
        {
            "name": study.name,
            "title": study.title,
            "remarks": texts.remarks(study, summary),
            "values": {p: texts.value_rows(study, summary, p) for p in PROTOCOLS},
            "differences": {p: texts.difference_rows(study, summary, p) for p in PROTOCOLS},
            "plots": {p: _plot(study, summary, p) for p in PROTOCOLS},
        }
        for study in summary.studies
    ]
    return (
        templates(autoescape=True)
        .get_template("ablation.html.j2")
        .render(
            setting=summary.setting,
            interval=texts.interval_sentence(summary),
            state=texts.state_sentences(summary),
            incomplete=bool(summary.missing or summary.failed),
            columns=texts.columns(),
            protocols=PROTOCOLS,
            windows={p: texts.windows_sentence(summary, p) for p in PROTOCOLS},
            stages={p: texts.stage_rows(summary, p) for p in PROTOCOLS},
            studies=studies,
            recipe_text=recipe_text,
        )
    )


def _plot(study: StudySummary, summary: AblationSummary, protocol: str) -> Markup | None:
    variants = study.variants if study.swept else (summary.full, *study.variants)
    values = {group: [_estimate(v.metrics[protocol][group]) for v in variants] for group in _PLOTTED}
    if all(e.value is None for estimates in values.values() for e in estimates):
        return None
    title = f"{study.title}: mean recall per behavior, {protocol} windows"
    names = [v.title for v in variants]
    return Markup(plots.sweep(title, names, values) if study.swept else plots.variant_rows(title, names, values))


def _estimate(statistic: SeedStatistic) -> Estimate:
    return Estimate(statistic.mean, statistic.interval)
