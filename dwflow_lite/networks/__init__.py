"""The networks of the course, written plainly; how they are described, told apart, and started."""

from dwflow_lite.networks.bert import BERT
from dwflow_lite.networks.describe import NETWORKS, architecture_of, behaviour_of, build
from dwflow_lite.networks.initialising import INITS, initialise
from dwflow_lite.networks.mlp import ACTIVATIONS, MLP
from dwflow_lite.networks.resnet import NORMS, ResidualBlock, ResNet
from dwflow_lite.networks.vit import AttentionBlock, Tokens, ViT

__all__ = [
    "ACTIVATIONS",
    "BERT",
    "INITS",
    "MLP",
    "NETWORKS",
    "NORMS",
    "AttentionBlock",
    "ResNet",
    "ResidualBlock",
    "Tokens",
    "ViT",
    "architecture_of",
    "behaviour_of",
    "build",
    "initialise",
]
