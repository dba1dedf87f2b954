"""papermill's engine, with the notebook kept in memory: a full disk cannot cut it in half."""

from __future__ import annotations

from typing import Any

from nbformat import NotebookNode
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

ENGINE = "dwflow"
WAIT_FOR_OUTPUTS = 60  # seconds after a cell's end in which its outputs may still be coming in
NO_TAG = "no cell has this tag"  # nbclient would skip the cells that an author tags skip-execution


class InMemory(NBClientEngine):
    """As papermill's own, but whoever runs it holds the notebook, as far as it got, whatever ends the run."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, *, keep: list[NotebookNode], **kwargs: Any
    ) -> NotebookNode:
        """Run the notebook; before that, append it to `keep`."""
        keep.append(nb_man.nb)
        waits = {"iopub_timeout": WAIT_FOR_OUTPUTS, "shell_timeout_interval": 1, "skip_cells_with_tag": NO_TAG}
        return super().execute_managed_notebook(nb_man, kernel_name, **waits, **kwargs)


papermill_engines.register(ENGINE, InMemory)
