"""README.md of an exported Hugging Face folder: what the model is, how to load it, and its license."""

from __future__ import annotations

import json
from datetime import datetime

import yaml

from edge_behavior.bundle.manifest import Manifest
from edge_behavior.core.events import UNKNOWN_PLACE, BehaviorEvent
from edge_behavior.hf.license import license_fields, license_markdown
from edge_behavior.util.markdown import markdown_text

_LISTED = 12
_TURNS = (
    "The model was trained with this text inside its chat template: put the token ids of `layout.chat` in edgeb.json\n"
    "around those of the text.\n\n"
)
_AT, _NEXT = datetime(2024, 5, 14, 18, 5), datetime(2024, 5, 14, 18, 40)


def render_card(manifest: Manifest, title: str, tuned: bool) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        manifest: The folder's.
        title: Name of the model.
        tuned: Whether an adapter was merged into the backbone.
    """
    base, labels, layout = manifest.base_model, manifest.candidates.labels, manifest.layout
    fields = {
        "library_name": "transformers",
        # A folder of this machine is no model of the hub.
        **({"base_model": base.name} if base.name is not None and "/" in base.name else {}),
        "pipeline_tag": "text-generation",
        **license_fields(base.license),
        "tags": ["edgeb", "behavior-prediction"],
    }
    place = UNKNOWN_PLACE
    prompt = layout.prompt([BehaviorEvent(place, _AT, labels[0])], _NEXT, place, labels).text
    more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
    shown = ", ".join(markdown_text(label) for label in labels[:_LISTED])
    turns = "" if layout.chat is None else _TURNS
    merged = " with a LoRA adapter merged into its weights" if tuned else " itself, without tuning"
    named = "--place home" if layout.places else ""
    return f"""---
{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---

# {markdown_text(title)}

A language model that predicts what a user does next, among {len(labels)} behaviors: {shown}{more}. It was written by
{manifest.created_with} in {manifest.quantization} and is {markdown_text(base.name or "a backbone")}{merged}.

## Load it

Run this in the folder:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")

prompt = {json.dumps(prompt, ensure_ascii=False)}
ids = tokenizer(prompt, return_tensors="pt")
output = model.generate(**ids, max_new_tokens=24, do_sample=False)
print(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
```

{turns}This decodes greedily and may answer with anything. edgeb tokenizes each part of the prompt separately and scores
every behavior exactly:

```bash
edgeb predict . --history today.csv --at 2024-05-14T18:40 {named}
```

`edgeb.json` holds the behaviors, the layout of the prompts, what the model was trained with, how it was evaluated, and
a hash of every file but this one. The folder can be `backbone.path` of a new run.

## License

{license_markdown(base.license)}
"""
