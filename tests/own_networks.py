"""Networks of a reader's own, for tests of several rooms."""

from torch import nn


class Of(nn.Module):
    """A network of named modules, made in this order, and a forward pass given as a function."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.run(self, x)
