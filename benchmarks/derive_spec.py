"""Specs derived from networks that people use: seconds, groups, largest change of an output, or what is refused.

python benchmarks/derive_spec.py [--only resnet18 ...] [--out benchmarks/results/derive_spec.json]

Images have 224 × 224 pixels, weights are drawn; outputs are compared in float64 while all groups move at random.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from dwflow_lite.symmetry import PermutationSpec, derive_spec
from dwflow_lite.symmetry.probing import Probe, in_double, random_state, smaller_inputs

VISION = (
    "resnet18 resnet50 densenet121 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 convnext_tiny "
    "squeezenet1_0 vit_b_16 swin_t vgg11_bn alexnet mnasnet1_0 shufflenet_v2_x1_0 regnet_y_400mf resnext50_32x4d"
).split()
TOKENS = torch.randint(1, 100, (2, 16), generator=torch.Generator().manual_seed(0))


class Last(nn.Module):
    """A recurrent network that returns what it has read at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Result(nn.Module):
    """A language model that returns one of its results."""

    def __init__(self, model: nn.Module, result: str) -> None:
        super().__init__()
        self.model, self.result = model, result

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)[self.result]


def language_models() -> dict[str, Callable[[], nn.Module]]:
    """Models of Hugging Face at their usual depth, narrow."""
    import transformers as hf

    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": 100}
    bert = {"hidden_size": 96, "num_attention_heads": 12, "intermediate_size": 192}
    gpt2 = {"n_embd": 96, "n_positions": 64, "use_cache": False}
    llama = bert | {"num_hidden_layers": 12, "use_cache": False}
    return {
        "BertModel": lambda: Result(hf.BertModel(hf.BertConfig(**special, **bert)), "pooler_output"),
        "BertForMaskedLM": lambda: Result(hf.BertForMaskedLM(hf.BertConfig(**special, **bert)), "logits"),
        "GPT2LMHeadModel": lambda: Result(hf.GPT2LMHeadModel(hf.GPT2Config(**special, **gpt2)), "logits"),
        "LlamaForCausalLM": lambda: Result(hf.LlamaForCausalLM(hf.LlamaConfig(**special, **llama)), "logits"),
    }


def networks() -> dict[str, tuple[Callable[[], nn.Module], Tensor]]:
    """Name -> how it is made, and its inputs."""
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    table = {name: (getattr(models, name), images) for name in VISION}
    table["googlenet"] = (lambda: models.googlenet(init_weights=False), images)
    layer = lambda: nn.TransformerEncoderLayer(64, 8, 128, batch_first=True, norm_first=True)  # noqa: E731
    encoder = lambda: nn.TransformerEncoder(layer(), 6, enable_nested_tensor=False)  # noqa: E731
    sequence = lambda: nn.Sequential(nn.Linear(5, 64), encoder(), nn.Linear(64, 3))  # noqa: E731
    table["nn.TransformerEncoder"] = (sequence, torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(0)))
    table["nn.LSTM"] = (Last, torch.randn(2, 16, 5))
    try:
        table |= {name: (make, TOKENS) for name, make in language_models().items()}
    except ImportError:
        print("without transformers")
    return table


def largest_change(network: nn.Module, spec: PermutationSpec, x: Tensor) -> float:
    """The largest change of an output, as a part of the largest one, when all groups are permuted at random."""
    double, state = in_double(network), random_state(spec.layout, 7)
    x, _ = smaller_inputs(double, state, x.double() if x.is_floating_point() else x)
    probe = Probe.of(double, state, x)
    return probe.change(double, spec.permute(state, spec.random(torch.Generator().manual_seed(7))))


def measure(make: Callable[[], nn.Module], x: Tensor) -> dict:
    torch.manual_seed(0)
    network = make()
    start, start_cpu = time.perf_counter(), time.process_time()
    row: dict = {"weights": sum(p.numel() for p in network.parameters())}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            spec = derive_spec(network, x)
        except ValueError as error:
            row["refused"] = str(error)
    row |= {"seconds": time.perf_counter() - start, "cpu seconds": time.process_time() - start_cpu}
    if "refused" not in row:
        row |= {"groups": len(spec.groups), "blocks of heads": len(spec.heads)}
        row |= {"largest change": largest_change(network, spec, x), "fixed": spec.fixed}
        row["notes"] = [str(w.message) for w in caught if "units left" in str(w.message)]
    return row


def table_of(rows: dict[str, dict]) -> str:
    """The rows as a table in Markdown."""
    lines = [
        "| network | weights | seconds | of a core | groups | blocks of heads | largest change | refused, or left |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---|")
    for name, row in rows.items():
        said = row.get("refused") or "; ".join(row["notes"])
        change = f"{row['largest change']:.0e}" if "largest change" in row else ""
        cells = [name, f"{row['weights']:,}", f"{row['seconds']:.1f}", f"{row['cpu seconds']:.1f}"]
        cells += [row.get("groups", "")]
        cells += [row.get("blocks of heads", ""), change, said.split("; unknown=")[0]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", default="benchmarks/results/derive_spec.json")
    args = parser.parse_args()
    derive_spec(nn.Sequential(nn.Linear(3, 4), nn.Hardswish(), nn.Linear(4, 2)), torch.randn(2, 3))  # imports
    rows = {}
    for name, (make, x) in networks().items():
        if not args.only or name in args.only:
            rows[name] = measure(make, x)
            print(table_of({name: rows[name]}).splitlines()[-1], flush=True)
    result = {
        "date": date.today().isoformat(),
        "command": "python benchmarks/derive_spec.py",
        "torch": torch.__version__,
    }
    result |= {"cpu": platform.machine(), "threads": torch.get_num_threads(), "networks": rows}
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    note = f"{result['threads']} threads; seconds by the clock (on an idle machine), and of processor time."
    head = f"# Specs derived from networks that people use\n\n`{result['command']}`: {note}\n\n"
    out.with_suffix(".md").write_text(f"{head}{table_of(rows)}\n")


if __name__ == "__main__":
    main()
