"""An engine's own calls, noted while a bundle predicts and made again without anything around them.

What is left out of a repetition is edgeb's: search, tokenizer, probabilities, and the arrays that calls take. So a
prediction's time over its repetition's is what edgeb adds to the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

from edge_behavior.bench.native import FLASH_PAYS, Decode, watched_decodes
from edge_behavior.bundle.bundle import bundle_form
from edge_behavior.runtime.backends.base import Backend
from edge_behavior.runtime.llama.context import ContextOptions, LlamaContext
from edge_behavior.runtime.llama.model import LlamaModel
from edge_behavior.runtime.predictor import open_backend

_Call = TypeVar("_Call")

# Logit rows of one decode: the backend asks for no more.
_ROWS = 64


class BareCalls(Protocol):
    """The calls of one open engine."""

    def noting(self) -> AbstractContextManager[None]:
        """A context manager: the calls made inside are those to repeat."""

    def repeat(self) -> float:
        """Make the noted calls again, on a cache of the same length; seconds inside them."""

    def close(self) -> None:
        """Free what only repetitions need."""


@contextmanager
def open_watched(bundle: Path, n_ctx: int, threads: int) -> Iterator[tuple[Backend, BareCalls]]:
    """A bundle's engine, and its calls; both are closed at the end.

    Args:
        bundle: The bundle.
        n_ctx: As for `open_backend`; so is `threads`.

    Raises:
        EdgebError: as `open_backend`.
    """
    form = bundle_form(bundle)
    with ExitStack() as stack:
        others = _WATCHED.get(form)
        watched = None if others is None else others()
        with nullcontext() if watched is None else watched.watched():
            backend = open_backend(bundle, n_ctx, threads)
        stack.callback(backend.close)
        calls: BareCalls = LlamaCalls(bundle, backend.capacity, threads) if watched is None else watched
        stack.callback(calls.close)
        yield backend, calls


class LlamaCalls:
    """Decodes of llama.cpp, repeated as a chain in contexts of one sequence: a trie's nodes cost what a chain costs.

    Flash attention is on where it helps, whatever the backend does.

    Args:
        bundle: The GGUF file, of which they open a copy.
        capacity: Positions of the backend's cache.
        threads: CPU threads.
    """

    def __init__(self, bundle: Path, capacity: int, threads: int) -> None:
        self._capacity = capacity
        self._noted: Sequence[Decode] = ()
        self._model = LlamaModel(bundle)
        options = [ContextOptions(capacity, threads, min(_ROWS, capacity), flash) for flash in (False, True)]
        self._contexts = [LlamaContext(self._model, each) for each in options]

    @contextmanager
    def noting(self) -> Iterator[None]:
        """See `BareCalls`."""
        with watched_decodes() as seen:
            yield
        self._noted = seen

    def repeat(self) -> float:
        """See `BareCalls`."""
        if not self._noted:
            return 0.0
        context = self._contexts[max(decode.tokens for decode in self._noted) >= FLASH_PAYS]
        position, seconds = self._noted[0].position, 0.0
        context.keep(position)
        if context.held < position:
            context.decode([1] * (position - context.held))
        for decode in self._noted:
            # Nodes that were dropped and evaluated again would not fit behind each other.
            context.keep(self._capacity - decode.tokens)
            rows = range(decode.tokens - decode.rows, decode.tokens)
            seconds += context.decode([1] * decode.tokens, rows)
        return seconds

    def close(self) -> None:
        """See `BareCalls`."""
        for context in self._contexts:
            context.close()
        self._model.close()


class _Notes(Generic[_Call]):
    """Calls of a backend's own objects, noted while asked to."""

    def __init__(self) -> None:
        self._noted: list[_Call] = []
        self._noting = False

    @contextmanager
    def noting(self) -> Iterator[None]:
        """See `BareCalls`."""
        self._noted, self._noting = [], True
        try:
            yield
        finally:
            self._noting = False

    def close(self) -> None:
        """See `BareCalls`; they belong to the backend."""
        self._noted = []


class LiteRtCalls(_Notes[Callable[[], None]]):
    """Runs of LiteRT's signatures, repeated on the arrays as they were left."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the model that is opened inside."""
        from edge_behavior.runtime.backends import litert

        module: Any = litert
        original = module.CompiledGraph

        def opened(*arguments: Any, **options: Any) -> Any:
            return _WatchedGraph(original(*arguments, **options), self._note)

        module.CompiledGraph = opened
        try:
            yield
        finally:
            module.CompiledGraph = original

    def repeat(self) -> float:
        """See `BareCalls`."""
        started = perf_counter()
        for run in self._noted:
            run()
        return perf_counter() - started

    def _note(self, run: Callable[[], None]) -> None:
        if self._noting:
            self._noted.append(run)


class _WatchedGraph:
    """A compiled graph whose runs are told to `note`."""

    def __init__(self, graph: Any, note: Callable[[Callable[[], None]], None]) -> None:
        self._graph, self._note = graph, note

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    def bind(self, *arguments: Any) -> Callable[[], None]:
        run: Callable[[], None] = self._graph.bind(*arguments)

        def noted() -> None:
            self._note(run)
            run()

        return noted


class SequenceCalls(_Notes[Callable[[], Any]]):
    """Forward passes of a sequence model, repeated on the same positions."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the network that is opened inside."""
        from edge_behavior.runtime.backends import sequence

        module: Any = sequence
        original = module.SequenceNetwork

        def opened(*arguments: Any) -> Any:
            return _WatchedNetwork(original(*arguments), self._note)

        module.SequenceNetwork = opened
        try:
            yield
        finally:
            module.SequenceNetwork = original

    def repeat(self) -> float:
        """See `BareCalls`."""
        started = perf_counter()
        for run in self._noted:
            run()
        return perf_counter() - started

    def _note(self, run: Callable[[], Any]) -> None:
        if self._noting:
            self._noted.append(run)


class _WatchedNetwork:
    """A sequence model's network whose forward passes are told to `note`."""

    def __init__(self, network: Any, note: Callable[[Callable[[], Any]], None]) -> None:
        self._network, self._note = network, note

    def logits(self, at: Any) -> Any:
        self._note(lambda: self._network.logits(at))
        return self._network.logits(at)


@dataclass(frozen=True)
class _GeneratorCall:
    """A method of onnxruntime-genai's generator, with its arguments."""

    generator: Any
    method: str
    arguments: tuple[Any, ...]


class OnnxCalls(_Notes[_GeneratorCall]):
    """Calls of onnxruntime-genai's generator, repeated from where its sequence began."""

    _METHODS = frozenset({"rewind_to", "append_tokens", "get_logits", "get_output"})

    def __init__(self) -> None:
        super().__init__()
        self._start = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the engine that is opened inside."""
        from edge_behavior.runtime.backends import onnx

        module: Any = onnx
        original = module.load_genai
        module.load_genai = lambda: _WatchedGenAi(original(), self)
        try:
            yield
        finally:
            module.load_genai = original

    def repeat(self) -> float:
        """See `BareCalls`."""
        if not self._noted:
            return 0.0
        generator = self._noted[0].generator
        if generator.token_count() != self._start:
            generator.rewind_to(self._start)
        started = perf_counter()
        for call in self._noted:
            getattr(call.generator, call.method)(*call.arguments)
        return perf_counter() - started

    def note(self, generator: Any, method: str, arguments: tuple[Any, ...]) -> None:
        """Note a call that is about to be made, if it is one to repeat."""
        if self._noting and method in self._METHODS:
            if not self._noted:
                # Where the first call rewinds to: it cannot be repeated from where the sequence is by then.
                self._start = arguments[0] if method == "rewind_to" else generator.token_count()
            self._noted.append(_GeneratorCall(generator, method, arguments))


class _WatchedGenAi:
    """The package, with generators whose calls are noted."""

    def __init__(self, package: Any, calls: OnnxCalls) -> None:
        self._package, self._calls = package, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._package, name)

    def Generator(self, *arguments: Any) -> Any:
        return _WatchedGenerator(self._package.Generator(*arguments), self._calls)


class _WatchedGenerator:
    def __init__(self, generator: Any, calls: OnnxCalls) -> None:
        self._generator, self._calls = generator, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._generator, name)
        if not callable(found):
            return found

        def called(*arguments: Any) -> Any:
            self._calls.note(self._generator, name, arguments)
            return found(*arguments)

        return called


# By form of the bundle; llama.cpp's calls are noted otherwise.
_WATCHED: Mapping[str, Callable[[], LiteRtCalls | OnnxCalls | SequenceCalls]] = {
    "litert": LiteRtCalls,
    "folder": OnnxCalls,
    "sequence": SequenceCalls,
}
