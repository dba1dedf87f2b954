"""The course: helpers for its notebooks, and the programs that run and check it.

Importing this package is quick and needs neither torch nor papermill.
"""

from .claims import above, below
from .notebook import note, record
from .paths import artefacts, data_folder, notebooks_folder, repository

__all__ = ["above", "artefacts", "below", "data_folder", "note", "notebooks_folder", "record", "repository"]
