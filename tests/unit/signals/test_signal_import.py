"""Importing signals is cheap: numba loads when the first signal compiles."""

import subprocess
import sys


def test_importing_signals_and_risk_loads_no_compiler():
    code = (
        "import sys, quantflow.signals, quantflow.risk, quantflow.backtest, quantflow.live\n"
        "heavy = {'numba', 'vectorbt', 'pandas', 'skfolio', 'psycopg', 'sklearn', 'plotly', 'distributed'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
