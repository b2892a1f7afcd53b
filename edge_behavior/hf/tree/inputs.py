"""A causal language model's input: the embeddings of tokens, with vectors at marked places.

A place is marked by an id beyond the vocabulary, whose excess says which vector stands there. What takes ids as they
are, such as tree scoring, needs to know no more of vectors than how to embed the ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edge_behavior.errors import EdgebError

# Token ids [n, L] to what the model's first layer takes, [n, L, H].
Embed = Callable[[torch.Tensor], torch.Tensor]


class VectorInputs:
    """Embeds ids that may stand for vectors.

    Args:
        model: A causal LM, with or without PEFT.

    Attributes:
        vocabulary: V, the rows of the model's embedding; the id V + k stands for vector k.
        width: H.

    Raises:
        EdgebError: the model gives no access to its input embeddings, or does not look them up by token id alone.
    """

    def __init__(self, model: Any) -> None:
        kind = model.config.get_text_config().model_type
        hint = "use a backbone whose input embeddings are one table, such as Qwen2 or Llama"
        try:
            self._embedding = model.get_input_embeddings()
        except (NotImplementedError, AttributeError):
            self._embedding = None
        if not isinstance(self._embedding, torch.nn.Embedding):
            raise EdgebError(f"a backbone of type {kind} gives no access to its input embeddings", hint)
        if getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None):
            raise EdgebError(f"a backbone of type {kind} embeds its tokens again in every layer", hint)
        self.vocabulary = int(self._embedding.weight.shape[0])
        self.width = int(model.config.get_text_config().hidden_size)

    def embed(self, ids: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """[n, L, H] embeddings of token ids and, where an id is V or more, the vectors that stand there.

        Args:
            ids: int64 [n, L].
            vectors: [K, H], in the scale of what the model's embedding gives; ids are below V + K.
        """
        marked = ids >= self.vocabulary
        embedded: torch.Tensor = self._embedding(ids.masked_fill(marked, 0))
        if not marked.any():
            return embedded
        # Not in place: gradients reach the vectors.
        own = vectors.to(embedded.dtype)[ids[marked] - self.vocabulary]
        return embedded.masked_scatter(marked[..., None], own)

    def with_vectors(self, vectors: torch.Tensor) -> Embed:
        """`embed` with these vectors."""
        return lambda ids: self.embed(ids, vectors)
