"""The systems of this room by name, in the order of the paper's tables: each makes a system of a language model."""

from __future__ import annotations

from collections.abc import Mapping

from edge_behavior.baselines.language.a_llmrec import ALlmRec
from edge_behavior.baselines.language.alphafuse import AlphaFuse
from edge_behavior.baselines.language.collm import CoLlm
from edge_behavior.baselines.language.llara import Llara
from edge_behavior.baselines.language.llm_esr import LlmEsr
from edge_behavior.baselines.language.pituning import PiTuning
from edge_behavior.baselines.language.rival import Rival
from edge_behavior.baselines.language.tallrec import TallRec

RIVALS: Mapping[str, type[Rival]] = {
    kind.name: kind for kind in (PiTuning, LlmEsr, AlphaFuse, ALlmRec, Llara, CoLlm, TallRec)
}
