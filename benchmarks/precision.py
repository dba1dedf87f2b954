"""Which precision and which layout of images make training on a card faster, at once and one by one.

    python -m benchmarks.precision [--out benchmarks/results/precision-h200.json]

Steps of Adam on noise of the size of CIFAR-10: ResNet-18 and ViT-Small-192. *autocast* is what ``Recipe(precision=
"bfloat16")`` does, which within ``torch.vmap`` reaches no convolution; *cast* computes on copies of all weights in
bfloat16; *tf32* lets matrix products of float32 round to it (convolutions do so by default). It says how fast, and not
how good: nothing here is trained.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.bench import surroundings
from benchmarks.measure import finished
from dwflow_lite.batchnorm import without_statistics
from dwflow_lite.networks import ResNet, ViT
from dwflow_lite.support.devices import usable_device
from dwflow_lite.support.paths import written_whole
from dwflow_lite.zoo import batched_forward

OUT = Path(__file__).parent / "results" / "precision-h200.json"
WARM, STEPS = 2, 6


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        network: ``"ResNet-18"`` or ``"ViT-Small-192"``.
        members: trained at once; 0: one alone, as a module.
        batch: images a member and step.
        precision: ``"float32"``, ``"tf32"``, ``"autocast"`` or ``"cast"``.
        channels_last: weights of convolutions, and images of a module, with channels innermost; cuDNN tries algorithms.
    """

    network: str
    members: int
    batch: int = 64
    precision: str = "float32"
    channels_last: bool = False


CASES = [
    *(Case("ResNet-18", members) for members in (1, 4, 12)),
    *(Case("ResNet-18", 12, 64, precision) for precision in ("autocast", "cast")),
    Case("ResNet-18", 12, 64, "cast", channels_last=True),
    *(Case("ResNet-18", 0, batch, precision) for batch in (64, 256) for precision in ("float32", "autocast")),
    *(Case("ResNet-18", 0, batch, "autocast", channels_last=True) for batch in (64, 256)),
    *(Case("ViT-Small-192", members) for members in (4, 12, 24)),
    *(Case("ViT-Small-192", 12, 64, precision) for precision in ("tf32", "autocast", "cast")),
    Case("ViT-Small-192", 0),
    *(Case("ViT-Small-192", 0, batch, "autocast") for batch in (64, 256)),
]


def network_of(name: str, toy: bool) -> nn.Module:
    if name == "ResNet-18":
        return without_statistics(ResNet((4, 5), 1) if toy else ResNet((64, 128, 256, 512), 2))
    return ViT(32, 16, 12, 1, 3) if toy else ViT(32, 4, 192, 6, 3)


def step_of(case: Case, device: torch.device, toy: bool) -> Callable[[], Tensor]:
    """One step of the optimizer, to be called again and again; gives the loss."""
    network = network_of(case.network, toy).to(device).train()
    if case.channels_last:
        network = network.to(memory_format=torch.channels_last)
    x = torch.rand(max(case.members, 1), case.batch, 3, 32, 32, device=device)  # (N, b, 3, 32, 32)
    y = torch.randint(10, x.shape[:2], device=device)  # (N, b)
    parameters = dict(network.named_parameters())
    if case.members:
        parameters = {n: torch.stack([p.detach()] * case.members).requires_grad_() for n, p in parameters.items()}
    elif case.channels_last:
        x = x[0].contiguous(memory_format=torch.channels_last)[None]
    optimizer = torch.optim.Adam(parameters.values(), fused=True)

    def outputs() -> Tensor:
        if not case.members:
            return network(x[0])[None]
        if case.precision != "cast":
            return batched_forward(network, parameters, x)
        return batched_forward(network, {n: p.bfloat16() for n, p in parameters.items()}, x.bfloat16())

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "autocast"):
            logits = outputs().float()  # (N, b, 10)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def images_a_second(case: Case, device: torch.device, toy: bool) -> float:
    """How many images are trained on in a second, by the median step."""
    torch.backends.cuda.matmul.allow_tf32 = case.precision == "tf32"
    torch.backends.cudnn.benchmark = case.channels_last and not case.members
    step, seconds = step_of(case, device, toy), []
    for number in range(WARM + STEPS):
        start = time.perf_counter()
        loss = finished(step)
        if number >= WARM:
            seconds.append(time.perf_counter() - start)
    if not loss.isfinite():
        raise ValueError(f"{case}: the loss is {float(loss)}")
    return max(case.members, 1) * case.batch / median(seconds)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--toy", action="store_true", help="tiny networks: whether it runs")
    args = parser.parse_args(arguments)
    device = usable_device()
    found = []
    for case in CASES:
        rate = images_a_second(case, device, args.toy)
        print(f"{case}: {rate:,.0f} images/s", flush=True)
        found.append(asdict(case) | {"images a second": round(rate)})
    command = "python -m benchmarks.precision" + (" --toy" if args.toy else "")
    result = {"command": command, "date": date.today().isoformat(), "machine": surroundings(), "cases": found}
    with written_whole(args.out) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
