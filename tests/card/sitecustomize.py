"""Puts the pretended card into kernels of Jupyter, and into nothing else. With the whole path on PYTHONPATH, as in

PYTHONPATH=$PWD/tests/card python -m dwflow_lite run --profile smoke -p device cuda --out build/card
"""

import sys

if any("ipykernel_launcher" in argument for argument in sys.orig_argv):
    from pretended import put_in

    put_in()
