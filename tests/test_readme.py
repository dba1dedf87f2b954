"""What README shows runs as it stands there, with smaller numbers."""

import re
from pathlib import Path

import pytest
import torch

from dwflow_lite import FlowSettings
from dwflow_lite.networks import ResNet

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
# What makes a snippet small; the words around the numbers stay.
SMALL = {
    "members=100": "members=6",
    "held_out=20": "held_out=2",
    "epochs=60": "epochs=1",
    "MLP([10, 64, 1]), ": "MLP([10, 64, 1]), recipe=Recipe(epochs=1), ",
    'folder="zoo", ': 'folder="zoo", recipe=Recipe(epochs=1), ',
    "sample(100": "sample(4",
    "rounds=5": "rounds=1",
    "DeepWeightFlow()": "DeepWeightFlow(flow=FlowSettings(hidden=8, steps=5))",
    "DeepWeightFlow(memory=1 << 28)": "DeepWeightFlow(memory=1 << 28, flow=FlowSettings(hidden=8, steps=5))",
}


def snippets():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network = ResNet(widths=(4,), blocks=1, channels=1)
    namespace = {"FlowSettings": FlowSettings, "network": network}
    assert len(snippets()) >= 3
    used = set()
    for snippet in snippets():
        for number, small in SMALL.items():
            if number in snippet:
                used.add(number)
                snippet = snippet.replace(number, small)
        if "from dwflow_lite.symmetry import" in snippet:  # the reader's own network, and a zoo of it
            namespace["zoo"] = namespace["train_zoo"](
                namespace["task"], network, members=3, held_out=1, recipe=namespace["Recipe"](epochs=1)
            )
        exec(snippet, namespace)
    assert "accurate and new" in capsys.readouterr().out  # the audit was printed
    assert used == set(SMALL), "a number to make small is no longer in README"
    assert isinstance(namespace["new"].module(0), torch.nn.Module)


def test_a_snippet_that_is_wrong_would_fail():
    """Control."""
    with pytest.raises(TypeError):
        exec(snippets()[0].replace("seed=0", "sead=0"), {"FlowSettings": FlowSettings})


def test_links_lead_somewhere():
    root = Path(__file__).resolve().parents[1]
    targets = [t for t in re.findall(r"\]\(([^)#]+)", README) if "://" not in t]
    assert targets and all((root / target).exists() for target in targets)
