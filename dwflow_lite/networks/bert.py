"""The transformer for text: the model of Hugging Face, built here and not downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dwflow_lite.support.checks import failing_as, is_number, is_whole
from dwflow_lite.tasks.text import PADDING


class BERT(nn.Module):
    """A transformer for text (arXiv 1810.04805): the ``BertModel`` of Hugging Face, linear head on its pooled output.

    Args:
        vocabulary: number of tokens; 0 is padding, which no token attends to.
        dim: of the stream, a multiple of ``heads``.
        depth: blocks.
        heads: of each attention.
        hidden: units of each block's perceptron.
        length: of the longest text, in tokens.
        outputs: of the network.
        dropout: everywhere where BERT has it, from 0 to below 1.

    The defaults are BERT-base (109,483,009 parameters with the head). It starts from :meth:`reset_parameters`.

    Raises:
        ImportError: ``transformers``, the extra ``text`` of this package, is not installed.
        ValueError: a size or a dropout out of range.
    """

    def __init__(  # noqa: PLR0913 - one argument for each number that makes a BERT
        self,
        vocabulary: int = 30522,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        length: int = 512,
        outputs: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        with failing_as("BERT needs transformers: pip install 'dwflow-lite[text]'", ImportError):
            from transformers import BertConfig, BertModel
        sizes = (vocabulary, dim, depth, heads, hidden, length, outputs)
        are_sizes = is_whole(vocabulary, 2) and all(is_whole(size, 1) for size in sizes)
        if not are_sizes or dim % heads != 0 or not is_number(dropout, 0) or dropout >= 1:
            raise ValueError(
                "sizes must be whole numbers >= 1 (vocabulary >= 2), dim a multiple of heads, dropout from 0 to below 1"
            )
        vocabulary, dim, depth, heads, hidden, length, outputs = (int(size) for size in sizes)
        self.options = {
            "vocabulary": vocabulary,
            "dim": dim,
            "depth": depth,
            "heads": heads,
            "hidden": hidden,
            "length": length,
            "outputs": outputs,
            "dropout": dropout if isinstance(dropout, int | float) else float(dropout),  # JSON knows Python's
        }
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=dim,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=hidden,
            max_position_embeddings=length,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            attn_implementation="eager",
        )
        self.bert = BertModel(config)
        self.head = nn.Linear(dim, outputs)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """BERT's own start: standard deviation 0.02, zero biases and padding, LayerNorms that change nothing."""
        for name, p in self.named_parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("LayerNorm.weight"):
                nn.init.ones_(p)
            else:
                nn.init.zeros_(p)
        self.bert.embeddings.word_embeddings.weight[PADDING] = 0.0

    def forward(self, tokens: Tensor) -> Tensor:
        """Outputs (n, outputs) of whole-number tokens (n, at most ``length``), each below ``vocabulary``.

        Raises:
            ValueError: texts of more tokens than ``length``.
        """
        width = tokens.shape[1]
        if width > self.options["length"]:
            raise ValueError(f"texts of {width} tokens for a BERT of length {self.options['length']}")
        # Types, positions and mask are given ready: what BertModel would do depends on data, which vmap does not take.
        positions = torch.arange(width, device=tokens.device)[None]  # (1, width)
        types = torch.zeros_like(positions)
        x = self.bert.embeddings(tokens, token_type_ids=types, position_ids=positions)  # (n, width, dim)
        padded = (tokens == PADDING)[:, None, None]  # (n, 1, 1, width): heads and readers share it
        mask = padded.to(x.dtype) * torch.finfo(x.dtype).min
        x = self.bert.encoder(x, attention_mask=mask)[0]  # (n, width, dim)
        return self.head(self.bert.pooler(x))

    @property
    def architecture(self) -> dict[str, Any]:
        """What :func:`build` needs to make this network again."""
        return {"class": "BERT", **self.options}
