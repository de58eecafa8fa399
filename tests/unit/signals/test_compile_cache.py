"""Machine code on disk: found again by the next process, never when anything it was made of has changed."""

import os
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest

from quantflow.errors import SignalError
from quantflow.signals import _cache, signal
from quantflow.signals._cache import cache_directory, compile_cached
from quantflow.signals._reach import fingerprint, identify

pytestmark = pytest.mark.slow  # as a module

INDICATOR = """
import math
import numpy as np
from quantflow.signals import indicator

@indicator(start=lambda: np.zeros(1), warm_up=lambda: 0)
def scaled(slot, value):
    slot[0] += 1.0
    return value * {factor} / (slot[0] - {fails_at})
"""

SIGNAL = """
from my_indicators import scaled
from quantflow.signals import param, signal

@signal()
def decide(bar, slot=scaled.over(), extra=param(0.0)):
    return scaled(slot, bar.close) + extra
"""

RUN = """
import sys
import numpy as np
from numba.core.dispatcher import _FunctionCompiler

compiled = []
compile_core = _FunctionCompiler._compile_core
def counted(self, *given):
    compiled.append(self.py_func.__name__)
    return compile_core(self, *given)
_FunctionCompiler._compile_core = counted

from my_signals import decide
from quantflow.errors import SignalError

try:
    exposures = decide.bind().exposures({"close": [4.0, 8.0, 16.0]}).tolist()
    out = np.empty((2, 3))
    decide.batch({"extra": [0.0, 1.0]}).prepare(np.array([[4.0, 8.0, 16.0]])).fill(0, 2, out)
    assert out.tolist() == [exposures, [value + 1.0 for value in exposures]]
    print(exposures, len(compiled) > 0)
except SignalError as exc:
    print(str(exc).splitlines()[0], len(compiled) > 0)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this test's own; what this process has loaded before is forgotten."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_cache, "_loaded", {})
    return cache_directory()


def run_in_new_process(directory, *, factor, fails_at="0.0"):
    (directory / "my_indicators.py").write_text(INDICATOR.format(factor=factor, fails_at=fails_at))
    (directory / "my_signals.py").write_text(SIGNAL)
    environment = {**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_second_process_finds_the_code_unless_an_indicator_changed(cache, tmp_path):
    assert run_in_new_process(tmp_path, factor=2.0) == "[8.0, 8.0, 10.666666666666666] True"
    assert run_in_new_process(tmp_path, factor=2.0) == "[8.0, 8.0, 10.666666666666666] False"
    assert run_in_new_process(tmp_path, factor=3.0) == "[12.0, 12.0, 16.0] True"
    # The first one's code was not overwritten, and nothing of the user's modules is in it.
    assert run_in_new_process(tmp_path, factor=2.0) == "[8.0, 8.0, 10.666666666666666] False"
    assert not any(b"my_signals" in entry.read_bytes() for entry in cache.iterdir())


def test_code_from_the_cache_raises_as_compiled_code_does(cache, tmp_path):
    expected = "decide raised ZeroDivisionError at row 1: division by zero"
    assert run_in_new_process(tmp_path, factor=2.0, fails_at="2.0") == f"{expected} True"
    assert run_in_new_process(tmp_path, factor=2.0, fails_at="2.0") == f"{expected} False"


def third(value):
    return value / 3.0


SIGNATURE = "float64(float64)"


def compiled_again(monkeypatch, function=third):
    """Return the function as a new process would get it, and whether it was compiled."""
    compilations = []
    original = _cache._compile

    def counted(*given):
        compilations.append(1)
        return original(*given)

    monkeypatch.setattr(_cache, "_compile", counted)
    monkeypatch.setattr(_cache, "_loaded", {})
    return compile_cached(function, SIGNATURE), bool(compilations)


def test_an_entry_is_found_again(cache, monkeypatch):
    assert compiled_again(monkeypatch)[1]
    function, compiled = compiled_again(monkeypatch)
    assert not compiled
    assert function(6.0) == 2.0


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: b"x" * 500])
def test_a_damaged_entry_is_compiled_anew(cache, monkeypatch, damage):
    compiled_again(monkeypatch)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    function, compiled = compiled_again(monkeypatch)
    assert compiled
    assert function(6.0) == 2.0
    assert not compiled_again(monkeypatch)[1]


def test_other_settings_another_version_or_processor_have_entries_of_their_own(cache, monkeypatch):
    import llvmlite.binding as llvm
    import numba

    compiled_again(monkeypatch)
    monkeypatch.setenv("NUMBA_OPT", "1")
    assert compiled_again(monkeypatch)[1]
    monkeypatch.setattr(numba, "__version__", "0.0.1")
    assert compiled_again(monkeypatch)[1]
    assert len(list(cache.iterdir())) == 3
    assert llvm.get_host_cpu_name() in _cache._environment()


def test_an_entry_that_needs_an_unknown_symbol_is_compiled_anew(cache, monkeypatch):
    compiled_again(monkeypatch)
    monkeypatch.setattr(_cache, "_linkable", lambda *given: False)
    function, compiled = compiled_again(monkeypatch)
    assert compiled
    assert function(6.0) == 2.0


def test_a_symbol_that_no_library_has_is_found_before_the_linker_ends_the_process():
    from numba.core.registry import cpu_target

    assert _cache._linkable(cpu_target.target_context, ["NRT_Free", "sqrt"])
    assert not _cache._linkable(cpu_target.target_context, ["NRT_Free", "no_such_symbol_anywhere"])


def test_a_directory_that_cannot_be_written_means_no_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        function, compiled = compiled_again(monkeypatch)
        assert compiled
        assert function(6.0) == 2.0


def test_a_full_disk_leaves_no_half_written_entry(cache, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_cache.os, "replace", full)
    assert compiled_again(monkeypatch)[0](6.0) == 2.0
    assert list(cache.iterdir()) == []


def test_old_entries_and_the_least_recently_used_are_deleted(cache, monkeypatch):
    cache.mkdir(parents=True)
    names = {}
    for days in (100, 40, 20, 0):
        names[days] = cache / f"{days}.bin"
        names[days].write_bytes(b"x" * 1000)
        when = _cache.time.time() - days * 86_400
        os.utime(names[days], (when, when))
    monkeypatch.setattr(_cache, "_LARGEST_BYTES", 2500)
    _cache._prune(cache, room_for=400)
    assert sorted(entry.name for entry in cache.iterdir()) == ["0.bin", "20.bin"]


def test_a_relative_cache_home_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_directory().as_posix() == "/somewhere/.cache/quantflow/compiled"


def test_the_same_code_is_the_same_object_in_one_process(cache):
    assert compile_cached(third, SIGNATURE) is compile_cached(third, SIGNATURE)
    assert compile_cached(third, "float32(float32)") is not compile_cached(third, SIGNATURE)


def test_other_types_are_refused_not_compiled(cache):
    with pytest.raises(TypeError, match="No matching definition"):
        compile_cached(third, SIGNATURE)("6")


def test_what_does_not_compile_is_named(cache):
    with pytest.raises(SignalError, match=r"my kernel does not compile(.|\n)*uncompiled=True") as caught:
        compile_cached(lambda value: value.nonsense, SIGNATURE, owner="my kernel")
    assert "numba.readthedocs" not in str(caught.value)
    with pytest.raises(SignalError, match="plain function"):
        compile_cached(len, SIGNATURE)


def module_of(source, **given):
    module = types.ModuleType("cell")
    module.__dict__.update(given)
    exec(textwrap.dedent(source), module.__dict__)
    return module


def test_a_changed_constant_is_seen_although_its_function_was_compiled_before(cache):
    cell = module_of("""
        FACTOR = 2.0
        def helper(value):
            return value * FACTOR
        def decide(bar):
            return helper(bar.close)
    """)
    assert signal()(cell.decide).bind().exposures({"close": [1.0]})[0] == 2.0
    cell.FACTOR = 3.0
    assert signal()(cell.decide).bind().exposures({"close": [1.0]})[0] == 3.0


def test_the_fingerprint_follows_defaults_closures_numba_functions_and_modules():
    import numba

    def built(*, default=1.0, closed=1.0, jitted=1.0, member=1.0, table=(1.0, 2.0)):
        inner = module_of(f"def clip(value):\n    return value * {member}\nUNUSED = object()")
        outer = module_of(
            f"""
            def helper(value, scale={default}):
                return value * scale
            def made():
                closed = {closed}
                def decide(bar):
                    return fast(helper(bar.close)) + inner.clip(closed) + table[0]
                return decide
            decide = made()
            """,
            inner=inner,
            table=table,
            fast=numba.njit(module_of(f"def fast(value):\n    return value + {jitted}").fast),
        )
        return fingerprint(outer.decide)

    changed = [{"default": 2.0}, {"closed": 2.0}, {"jitted": 2.0}, {"member": 2.0}, {"table": (1.5, 2.0)}]
    assert len({built(), built(), *(built(**one) for one in changed)}) == 1 + len(changed)


def test_code_known_only_by_name_is_not_shared(cache, monkeypatch):
    cell = module_of("""
        class Wall:
            height = 2.0
        def decide(value):
            return value * Wall.height
    """)
    assert identify(cell.decide).unread == ["cell.Wall"]
    assert identify(third).unread == []


def test_functions_of_numpy_and_helpers_with_defaults_compile(cache):
    cell = module_of("""
        from math import exp
        import numpy as np
        def helper(value, scale=2.0):
            return value * scale
        def decide(value):
            return helper(np.sqrt(value)) + helper(exp(0.0), 3.0) + float(len("four"))
    """)
    assert compile_cached(cell.decide, SIGNATURE)(4.0) == 4.0 + 3.0 + 4.0
    assert identify(cell.decide).unread == []


def test_functions_that_allocate_compile_too(cache, monkeypatch):
    cell = module_of("""
        import numpy as np
        def parts(value):
            made = np.full(4, value)
            return made[1:3], [value, value]
        def decide(value):
            total = 0.0
            for _ in range(10_000):
                view, listed = parts(value)
                total += view[0] + listed[1]
            return total
    """)
    for _ in range(2):
        function, _ = compiled_again(monkeypatch, cell.decide)
        assert function(1.5) == 30_000.0


def test_arrays_may_be_answered(cache, monkeypatch):
    cell = module_of("""
        def tail(values):
            return values[1:]
    """)
    for _ in range(2):
        monkeypatch.setattr(_cache, "_loaded", {})
        function = compile_cached(cell.tail, "float64[::1](float64[::1])")
        assert function(np.array([1.0, 2.0, 3.0])).tolist() == [2.0, 3.0]
