"""RUN/README.md: the model card of a run, in the style of Hugging Face.

Its code blocks work in the run folder with stock PEFT. Measures nothing.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import yaml

from edge_behavior.core.events import UNKNOWN_PLACE, BehaviorEvent
from edge_behavior.core.license import License
from edge_behavior.core.prompts import Prompt
from edge_behavior.data.dataset import Dataset
from edge_behavior.evaluation.tables import results_markdown
from edge_behavior.hf.find import fetched_before
from edge_behavior.hf.license import license_fields, license_markdown, read_license
from edge_behavior.train.recipe import Recipe
from edge_behavior.train.report.summary import (
    b_tuning_sentence,
    backbone_sentence,
    changed_settings,
    dataset_rows,
    split_sentence,
    templates,
    units_of,
    verdict,
    versions,
)
from edge_behavior.train.run.folder import RunFolder, write_text
from edge_behavior.train.run.metrics import read_metrics
from edge_behavior.util.markdown import markdown_text

_LISTED = 12
_EXAMPLE_START = datetime(2024, 5, 14, 18, 5)
_EXAMPLE_EVENTS = 3


def write_card(run: RunFolder, dataset: Dataset) -> None:
    """Write RUN/README.md, replacing an earlier one.

    Raises:
        EdgebError: the run has no metrics yet, or a file of it is damaged.
    """
    write_text(run.path / "README.md", render_card(run, dataset))


def render_card(run: RunFolder, dataset: Dataset) -> str:
    """The card as Markdown with YAML front matter."""
    metrics, recipe = read_metrics(run), run.recipe
    standin = run.state.backbone.standin
    base = run.state.backbone.path
    prompt, stated = example_prompt(run, dataset), _base_license(run)
    text = templates(autoescape=False)
    text.filters["md"] = markdown_text
    return text.get_template("card.md.j2").render(
        front_matter=yaml.safe_dump(_front_matter(run, recipe, stated), sort_keys=False, allow_unicode=True),
        title=run.path.resolve().name,
        standin=standin,
        backbone=backbone_sentence(run, recipe),
        license=license_markdown(stated),
        base=json.dumps(base, ensure_ascii=False),
        revision=json.dumps(recipe.backbone.revision) if recipe.backbone.revision else None,
        verdict=verdict(metrics),
        kept=b_tuning_sentence(run.done("b_tuning")),
        natural=results_markdown(metrics.systems, "natural"),
        balanced=results_markdown(metrics.systems, "balanced"),
        facts=dataset_rows(dataset, metrics.anchor_threshold),
        labels=dataset.candidates.labels,
        listed=_LISTED,
        recipe=recipe,
        fence=_fence(prompt.text),
        shown_prompt=_shortened(prompt, dataset.candidates.labels),
        prompt_literal=_python_literal(prompt.text),
        chat=run.layout.chat is not None,
        user_literal=_python_literal("".join(prompt.static)),
        assistant_literal=_python_literal("".join(prompt.body)),
        history_place=json.dumps(dataset.places[0] if run.layout.places else UNKNOWN_PLACE, ensure_ascii=False),
        place=json.dumps(dataset.places[0], ensure_ascii=False) if run.layout.places else "None",
        places=run.layout.places,
        split=split_sentence(dataset),
        units=units_of(metrics),
        end=json.dumps(run.layout.terminator) if run.layout.terminator else None,
        versions=versions(run),
        changed=changed_settings(run),
    )


def example_prompt(run: RunFolder, dataset: Dataset) -> Prompt:
    """A prompt of synthetic events with the dataset's labels and places: a card shows no user's history."""
    labels, places = dataset.candidates.labels, dataset.places or [UNKNOWN_PLACE]
    history = [
        BehaviorEvent(places[i % len(places)], _EXAMPLE_START + timedelta(minutes=50 * i), labels[i % len(labels)])
        for i in range(_EXAMPLE_EVENTS)
    ]
    when = _EXAMPLE_START + timedelta(minutes=50 * _EXAMPLE_EVENTS)
    return run.layout.prompt(history, when, places[0], labels)


def _front_matter(run: RunFolder, recipe: Recipe, stated: License | None) -> dict[str, Any]:
    base = run.state.backbone.path
    method = [recipe.b_tuning.method] if recipe.b_tuning.method != "none" else []
    return {
        "library_name": "peft",
        "base_model": base,
        "pipeline_tag": "text-generation",
        **license_fields(stated),
        "tags": ["edgeb", "behavior-prediction", "lora", "trl", *dict.fromkeys(["sft", *method])],
    }


def _base_license(run: RunFolder) -> License | None:
    """The backbone's license; the folder is at hand, since the run was just trained or evaluated with it."""
    folder = fetched_before(run.backbone, run.recipe.backbone.revision)
    return None if folder is None else read_license(folder)


def _shortened(prompt: Prompt, labels: tuple[str, ...]) -> str:
    """The prompt's text with a long candidate list shortened; the code block has it in full."""
    text = prompt.text
    if len(labels) > _LISTED:
        for separator in ("; ", ", "):
            few, rest = separator.join(labels[:_LISTED]), len(labels) - _LISTED
            text = text.replace(separator.join(labels), f"{few}{separator}… {rest} more")
    return text


def _fence(text: str) -> str:
    """A code fence that the text cannot close."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))


def _python_literal(text: str) -> str:
    """Python source of a string, one line of text per line."""
    return "\n".join(f"    {json.dumps(line, ensure_ascii=False)}" for line in text.splitlines(keepends=True))
