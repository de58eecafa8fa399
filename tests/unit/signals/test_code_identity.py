"""The identity of plain Python code follows what decides, and nothing else."""

import functools
import subprocess
import sys
import textwrap
import types
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge

from quantflow.signals import param
from quantflow.signals._identity import identity_of
from quantflow.testing.signals import trend


def module_of(source, **names):
    module = types.ModuleType("written_by_a_user")
    module.__dict__.update(names)
    exec(textwrap.dedent(source), module.__dict__)
    return module


def decided(source, **names):
    return identity_of(module_of(source, **names).decide)


SOURCE = """
    LEVELS = [1.0, 2.0]
    NAMES = {"fast": 3, "slow": 9}
    def scale(value):
        return value * LEVELS[0]
    def decide(value, by=scale):
        return scale(value) + NAMES["fast"] + len({"a", "b", "c"})
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value * LEVELS[0]", "value / LEVELS[0]"),
        ("[1.0, 2.0]", "[1.0, 2.5]"),
        ('"slow": 9', '"slow": 8'),
        ('{"a", "b", "c"}', '{"a", "b", "d"}'),
        ("by=scale", "by=None"),
    ],
)
def test_a_change_of_what_is_reached_is_another_identity(old, new):
    assert old in SOURCE
    assert decided(SOURCE) != decided(SOURCE.replace(old, new))


def test_comments_lines_and_what_is_not_reached_do_not_matter():
    assert decided(SOURCE) == decided("\n\n# why\nOTHER = 3\n" + textwrap.dedent(SOURCE))


def test_functions_that_call_each_other_have_an_identity():
    source = """
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        def decide(n): return even(n)
    """
    assert decided(source) == decided(source)
    assert decided(source) != decided(source.replace("n != 0", "n != 1"))


def test_modules_classes_and_closures_are_followed():
    helper = module_of("def half(x): return x / 2")
    other = module_of("def half(x): return x / 3")
    source = "def decide(x): return helper.half(x)"
    assert decided(source, helper=helper) != decided(source, helper=other)

    source = """
        class Base:
            def base(self): return 1
        class Rule(Base):
            def __init__(self, by): self.by = by
            def apply(self, x): return x * self.by
        rule = Rule(2.0)
        def decide(x): return rule.apply(x)
    """
    changed = {
        decided(source),
        decided(source.replace("x * self.by", "x + self.by")),
        decided(source.replace("Rule(2.0)", "Rule(3.0)")),
        decided(source.replace("return 1", "return 2")),
    }
    assert len(changed) == 4

    def closed_over(level):
        return lambda x: x * level

    assert identity_of(closed_over(1)) == identity_of(closed_over(1))
    assert identity_of(closed_over(1)) != identity_of(closed_over(2))


@dataclass(frozen=True)
class Setting:
    level: float


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 3.0])),
        (np.float64(1.0), np.float32(1.0)),
        (pl.col("close"), pl.col("open")),
        (pl.col("close").rolling_mean(3), pl.col("close").rolling_mean(4)),
        (Setting(1.0), Setting(2.0)),
        (Ridge(alpha=1.0), Ridge(alpha=2.0)),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (Setting(1.0).__eq__, Setting(2.0).__eq__),
        ({1, 2}, {1, 3}),
        (1, 1.0),
        (param(3), param(4)),
        (trend, trend.definition),
        (range(3), range(4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_decide_otherwise_are_told_apart(left, right):
    assert identity_of(left) != identity_of(right)
    assert identity_of(left) == identity_of(left)


def test_equal_values_are_alike_however_they_are_shared():
    pair = (1.0, "a")
    assert identity_of([pair, pair]) == identity_of([pair, (float("1.0"), "".join("a"))])


def test_it_is_the_same_in_every_process():
    code = (
        "import polars as pl\nfrom quantflow.signals import column_signal, param\n"
        "NAMES = {'a', 'b', 'c', 'd'}\n"
        "@column_signal(window=3)\n"
        "def tried(by=param(2.0)):\n"
        "    return pl.col('close') * by * len(NAMES) + ('x' in {'a', 'b', 'c'})\n"
        "print(tried.fingerprint)\n"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    assert printed[0].stdout == printed[1].stdout
    assert len(printed[0].stdout.strip()) == 64
