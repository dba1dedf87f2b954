"""What an audit sees through: the order of units, and the scales, signs and bases that no output sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dwflow_lite.auditing.streams import Rows
from dwflow_lite.networks import BERT, ViT
from dwflow_lite.symmetry.gauge import fix_circuits
from dwflow_lite.symmetry.probing import Probe, in_double, known_state
from dwflow_lite.symmetry.scales import HiddenScales, find_scales
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.symmetry.stream import fold_norms
from dwflow_lite.symmetry.tracing import derive_spec
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.zoo import Zoo

EXAMPLES = 8  # on which a reader's spec is tried


@dataclass(frozen=True)
class Symmetries:
    """The known symmetries of the networks of one architecture.

    Attributes:
        spec: which units may be permuted.
        scales: which may be scaled; None: these, and the bases of attention circuits, are not seen through.
        has_circuits: whether they have attention circuits (see ``fix_circuits``).
    """

    spec: PermutationSpec
    scales: HiddenScales | None = None
    has_circuits: bool = False

    @classmethod
    def of(cls, network: nn.Module, spec: PermutationSpec | None, x: Tensor, gauge: bool) -> Symmetries | None:
        """What is known of a network, or can be found out.

        Args:
            network: a template.
            spec: of a reader's own network; None: the course's have theirs, and for others it is derived.
            x: some inputs (n, ...) that it takes.
            gauge: whether to look for scales, signs and circuits too.

        Returns:
            None where nothing is known.
        """
        spec = _own_spec(network, x) if spec is None else spec
        if not gauge:
            return None if spec is None else cls(spec)
        fixed = spec is None
        if spec is None:  # BatchNorm may hide scales all the same
            layout = Layout.of(network)
            spec = PermutationSpec(layout, {entry.name: (None,) * len(entry.shape) for entry in layout.entries})
        scales = find_scales(network, spec, x)
        has_circuits = type(network) in (ViT, BERT) and bool(spec.heads)
        return None if fixed and not scales.names else cls(spec, scales, has_circuits)

    @property
    def names(self) -> tuple[str, ...]:
        """Their kinds, in words."""
        names = ("permutation",) if self.spec.groups else ()
        if self.scales is not None:
            names += self.scales.names
        return (*names, "attention circuits") if self.has_circuits else names

    @property
    def gauges(self) -> list[Callable[[Zoo], Tensor]]:
        """What gives the weights (n, d) of the same functions in each gauge in which distances are to be measured.

        Signs and circuits are chosen by what is largest, and nearly equal networks may be given other ones. So where
        there are any, the weights as they stand are a second reading.
        """
        if self.scales is None:
            return [_as_they_stand]
        is_rough = self.has_circuits or self.scales.signed
        return [_as_they_stand, self._fixed] if is_rough else [self._fixed]

    def readings(self, networks: Zoo, at_once: int) -> list[Rows]:
        """Rows (n, d) of networks in each gauge; of networks on disk, so many are read at a time."""
        if isinstance(networks.weights, Tensor):
            return [Rows(gauge(networks)) for gauge in self.gauges]
        as_read = Rows(networks.weights, at_once)

        def in_gauge(gauge: Callable[[Zoo], Tensor]) -> Rows:
            return as_read.changed(lambda rows, _: gauge(Zoo(rows, networks.layout, networks.network)))

        return [in_gauge(gauge) for gauge in self.gauges]

    def _fixed(self, networks: Zoo) -> Tensor:
        if self.has_circuits:
            networks = fix_circuits(fold_norms(networks) if type(networks.network) is ViT else networks)
        return self.scales.fix(networks.weights)


def _as_they_stand(networks: Zoo) -> Tensor:
    return networks.weights


def check_symmetry(zoo: Zoo, spec: PermutationSpec, x: Tensor) -> None:
    """``ValueError`` if permuting units by a reader's spec changes what a member computes.

    By such a spec networks that compute something else would read as copies. A network that does not run in float64
    is taken at the reader's word.

    Args:
        zoo: of which the first member is tried.
        spec: of its networks.
        x: some inputs (n, ...) that they take.
    """
    x = x[:EXAMPLES].detach().cpu()
    try:
        network = in_double(zoo.network)
        probe = Probe.of(network, known_state(zoo.layout, zoo.weights[0]), x.double() if x.is_floating_point() else x)
        moved = spec.permute(probe.state, spec.random(torch.Generator().manual_seed(0)))
        change = probe.change(network, moved) if probe.is_useful else 0.0
    except Exception:  # whatever a reader's own code raises
        return
    if change > probe.tolerance:
        raise ValueError(
            f"the spec is no symmetry of this {type(network).__name__}: permuting units by it changes outputs by "
            f"{change:.2g} of the largest one; derive one (derive_spec(network, x)), or audit with rematch=False"
        )


def _own_spec(network: nn.Module, x: Tensor) -> PermutationSpec | None:
    """What moves together: known of a network of the course, derived of a reader's own; None where neither works."""
    try:
        return PermutationSpec.of(network)
    except ValueError:
        pass
    try:
        return derive_spec(network, x)
    except ValueError:  # it names what it does not understand; the column of distances stays empty then
        return None
