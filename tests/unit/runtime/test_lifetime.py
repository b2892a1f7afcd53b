"""Closed, dropped, forked, interrupted: no crash, no hang, no wrong answer, and the memory comes back."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import psutil
import pytest

from edge_behavior.core.events import BehaviorEvent
from edge_behavior.errors import EdgebError
from edge_behavior.runtime.backends.llama import LlamaBackend, LlamaOptions
from edge_behavior.runtime.lifetime import Lifetime, Turns
from edge_behavior.runtime.predictor import PredictOptions, Predictor
from tests import helpers
from tests.unit.runtime import lives

NOON = datetime(2024, 3, 18, 12)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")


@pytest.fixture
def predictor(any_bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(any_bundle, threads=1, prefix_cache=False) as opened:
        yield opened


def open_backend(bundle: Path) -> LlamaBackend:
    return LlamaBackend(bundle, LlamaOptions(256, 1, exact=True))


class TestClosed:
    def test_backend(self, small_bundle: Path) -> None:
        lives.refuses_after_close(open_backend(small_bundle))

    def test_predictor_and_its_sessions(self, predictor: Predictor, tmp_path: Path) -> None:
        session = predictor.session()
        session.observe(BehaviorEvent("DK", NOON, "Video"))
        session.predict(NOON, "DK")
        session.save(tmp_path / "saved")
        predictor.close()
        predictor.close()
        uses: list[Callable[[], Any]] = [
            lambda: predictor.predict([], NOON, "a place never seen", None),
            lambda: predictor.predict([], NOON, "DK", None, options=PredictOptions(source="habits")),
            lambda: predictor.log_probs([], NOON, "DK"),
            lambda: predictor.session(),
            lambda: predictor.restore(tmp_path / "saved"),
            lambda: predictor.warm(tmp_path),
            lambda: session.observe(BehaviorEvent("AB", NOON, "Bar")),
            lambda: session.predict(NOON, "a place never seen"),
            lambda: session.prepare(),
            lambda: session.save(tmp_path / "again"),
        ]
        for use in uses:
            with pytest.raises(EdgebError, match="the predictor is closed") as caught:
                use()
            assert caught.value.hint == "load the bundle again"
        assert not (tmp_path / "again").exists()
        assert [e.behavior for e in session.events] == ["Video"]
        assert session.habits.events == 1
        assert predictor.manifest.candidates.labels

    def test_while_another_thread_predicts(self, any_bundle: Path) -> None:
        for _ in range(5):
            opened = Predictor.load(any_bundle, threads=1, prefix_cache=False)
            opened.predict([], NOON, "DK", None)
            refused: list[str] = []

            def ask(opened: Predictor = opened, refused: list[str] = refused) -> None:
                try:
                    for hour in range(1000):
                        opened.predict([], NOON + timedelta(hours=hour), f"place {hour}", 1)
                except EdgebError as error:
                    refused.append(error.message)

            askers = [threading.Thread(target=ask) for _ in range(3)]
            for asker in askers:
                asker.start()
            opened.close()
            for asker in askers:
                asker.join()
            assert refused == ["the predictor is closed"] * 3

    def test_within_its_own_call_it_is_closed_afterwards(
        self, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a signal's handler does."""
        predictor = Predictor.load(small_bundle, threads=1, prefix_cache=False)
        decode = LlamaBackend._decode

        def closing(self: LlamaBackend, count: int) -> None:
            predictor.close()
            decode(self, count)

        monkeypatch.setattr(LlamaBackend, "_decode", closing)
        assert predictor.predict([], NOON, "DK", None).ranked
        with pytest.raises(EdgebError, match="closed"):
            predictor.predict([], NOON, "DK")


class TestMemory:
    def test_frees_are_made_once_and_in_turn(self) -> None:
        class Owner:
            pass

        owner, freed = Owner(), []
        lifetime = Lifetime(owner)
        for name in ("model", "context", "batch"):
            assert lifetime.keep(name, freed.append) == name
        del owner
        assert freed == ["batch", "context", "model"]
        lifetime.close()
        assert len(freed) == 3

    @pytest.mark.parametrize("use", ["nothing", "session", "failed"])
    def test_a_dropped_predictor_is_freed_at_once(
        self, use: str, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By reference counts alone: nothing of it is in a circle."""
        freed: list[str] = []
        for name in ("llama_model_free", "llama_free", "llama_batch_free"):
            plain = getattr(llama_cpp, name)
            monkeypatch.setattr(llama_cpp, name, lambda h, name=name, plain=plain: (freed.append(name), plain(h)))
        gc.disable()
        try:
            opened = Predictor.load(small_bundle, threads=1, prefix_cache=False)
            opened.predict([], NOON, "DK", None)
            session = opened.session() if use == "session" else None
            if use == "failed":
                with pytest.raises(EdgebError):
                    opened.predict([], NOON, "DK", options=PredictOptions(only=["Vidio"]))
            del opened
            if session is not None:
                assert freed == [], "a session needs its predictor"
                assert session.predict(NOON, "DK").ranked
                del session
            assert freed == ["llama_batch_free", "llama_free", "llama_model_free"]
        finally:
            gc.enable()

    def test_resident_memory(self, native_bundle: Path) -> None:
        def drop(times: int) -> int:
            for _ in range(times):
                Predictor.load(native_bundle, threads=1, prefix_cache=False).predict([], NOON, "DK", 1)
            return psutil.Process().memory_info().rss

        before = drop(5)
        assert drop(20) - before < 16 << 20

    @pytest.mark.parametrize("failing", ["llama_init_from_model", "llama_model_get_vocab", "llama_batch_init"])
    def test_a_failing_constructor_frees_what_it_made(
        self, failing: str, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        freed: list[str] = []
        for name in ("llama_model_free", "llama_free"):
            plain = getattr(llama_cpp, name)
            monkeypatch.setattr(llama_cpp, name, lambda h, name=name, plain=plain: (freed.append(name), plain(h)))

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(llama_cpp, failing, interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_backend(small_bundle)
        expected = ["llama_free", "llama_model_free"] if failing == "llama_batch_init" else ["llama_model_free"]
        assert freed == expected

    def test_no_copies(self, predictor: Predictor) -> None:
        for attempt in (pickle.dumps, copy.deepcopy):
            for what in (predictor, predictor.session()):
                with pytest.raises(EdgebError, match="cannot be pickled"):
                    attempt(what)


@needs_fork
class TestFork:
    def test_backend(self, small_bundle: Path) -> None:
        backend = open_backend(small_bundle)
        lives.refused_in_fork(backend)
        backend.close()

    def test_predictor(self, predictor: Predictor, any_bundle: Path, tmp_path: Path) -> None:
        session = predictor.session()
        expected = [r.behavior for r in session.predict(NOON, "DK").ranked]

        def ask() -> None:
            uses: list[Callable[[], Any]] = [
                lambda: predictor.predict([], NOON, "DK", None),
                lambda: predictor.session(),
                lambda: session.observe(BehaviorEvent("DK", NOON, "Video")),
                lambda: session.predict(NOON, "DK"),
                lambda: session.save(tmp_path / "saved"),
            ]
            for use in uses:
                with pytest.raises(EdgebError, match="loaded in another process") as caught:
                    use()
                assert "load the bundle in this process" in caught.value.hint
            predictor.close()
            with Predictor.load(any_bundle, prefix_cache=False) as own:
                assert [r.behavior for r in own.predict([], NOON, "DK", 5).ranked] == expected

        lives.in_fork(ask)
        assert [r.behavior for r in session.predict(NOON, "DK").ranked] == expected

    def test_while_another_thread_has_its_turn(self, predictor: Predictor) -> None:
        inside, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with predictor._ranker.turn():
                inside.set()
                leave.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        inside.wait()

        def ask() -> None:
            with pytest.raises(EdgebError, match="loaded in another process"):
                predictor.predict([], NOON, "DK")
            predictor.close()

        try:
            lives.in_fork(ask)
        finally:
            leave.set()
            holder.join()


NATIVE = [
    "llama_memory_seq_rm", "llama_memory_seq_cp", "llama_memory_clear", "llama_decode", "llama_synchronize",
    "llama_get_logits_ith", "llama_state_seq_get_size", "llama_state_seq_get_data", "llama_state_seq_set_data",
    "llama_memory_seq_pos_max",
]  # fmt: skip


class Interrupt:
    """Raises KeyboardInterrupt before or after the n-th native call; counts them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls, self.at, self.after = 0, -1, False
        for name in NATIVE:
            patch.setattr(llama_cpp, name, self._wrapped(getattr(llama_cpp, name)))

    def _wrapped(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            now = self.calls == self.at
            if now and not self.after:
                raise KeyboardInterrupt
            found = plain(*arguments)
            if now:
                raise KeyboardInterrupt
            return found

        return call


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_at_any_native_call_leaves_no_wrong_answer(
    after: bool, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call it hits, the next answer is that of a fresh predictor."""
    first, second = helpers.diary(6, 1), helpers.diary(9, 2)
    with Predictor.load(small_bundle, threads=1, exact_math=True, prefix_cache=False) as opened:
        expected = opened.log_probs(second[:-1], second[-1].time, second[-1].place)
    interrupt = Interrupt(monkeypatch)
    interrupt.after = after
    with Predictor.load(small_bundle, threads=1, exact_math=True, prefix_cache=False) as opened:
        backend = opened._ranker.backend

        def work() -> None:
            opened.predict(first[:-1], first[-1].time, first[-1].place, 2)
            ids = list(backend.held)
            backend.load_state(ids, backend.save_state())
            opened.predict(first[:-1], first[-1].time, first[-1].place, None, options=PredictOptions(exhaustive=True))
            opened.predict(second[:4], second[4].time, second[4].place, 1)

        work()
        interrupt.calls = 0
        work()
        total = interrupt.calls
        assert total > 20
        for at in range(1, total + 1):
            interrupt.calls, interrupt.at = 0, at
            with pytest.raises(KeyboardInterrupt):
                work()
            interrupt.at = -1
            found = opened.log_probs(second[:-1], second[-1].time, second[-1].place)
            np.testing.assert_allclose(found, expected, atol=1e-3)
            work()


def test_turns_end_when_the_block_fails() -> None:
    class Owner:
        pass

    owner = Owner()
    turns, done = Turns(Lifetime(owner)), []

    def interrupted() -> None:
        with turns.turn(), turns.turn():
            turns.after(lambda: done.append("ended"))
            assert done == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["ended"]


def test_a_lifetime_does_not_keep_its_owner() -> None:
    class Owner:
        def __init__(self) -> None:
            self.lifetime = Lifetime(self)

    owner = Owner()
    gone = weakref.ref(owner)
    del owner
    assert gone() is None


def test_many_predictors_in_many_threads(any_bundle: Path) -> None:
    """Loaded, asked and closed at once: llama.cpp's log is one for the process."""
    wrong: list[BaseException] = []
    expected = None

    def live() -> None:
        try:
            for _ in range(4):
                with Predictor.load(any_bundle, threads=1, prefix_cache=False) as opened:
                    found = [r.behavior for r in opened.predict([], NOON, "DK", None).ranked]
                assert expected is None or found == expected
        except BaseException as error:  # a thread's failure is the test's
            wrong.append(error)

    live()
    with Predictor.load(any_bundle, threads=1, prefix_cache=False) as opened:
        expected = [r.behavior for r in opened.predict([], NOON, "DK", None).ranked]
    workers = [threading.Thread(target=live) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
