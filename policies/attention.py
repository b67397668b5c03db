"""Attention of few queries to many tokens.

Dims: b batch, k queries, m steps that are attended to, w width, h heads, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ContextAttention(nn.MultiheadAttention):
    """Few queries attend to many steps: the queries are brought to the steps' space, and what they saw out of it again.

    The same function and the same parameters as `nn.MultiheadAttention`, which brings every step to keys and values
    instead and takes width / (heads * queries) times as many products; DeepSeek-V2 absorbs its projections alike (arXiv
    2405.04434, section 2.1.2). The bias of the keys adds the same to all scores of a query: softmax does not see it.
    """

    def forward(  # type: ignore[override]
        self,
        query: Float[Tensor, "b k w"],
        key: Float[Tensor, "b m w"],
        value: Float[Tensor, "b m w"],
        attn_mask: None = None,
        key_padding_mask: None = None,
        **_: Any,
    ) -> tuple[Float[Tensor, "b k w"], None]:
        """What each query finds in `key`, which has to be `value` too, and unmasked."""
        assert value is key
        assert attn_mask is None
        assert key_padding_mask is None
        to_query, to_key, to_value = self.in_proj_weight.chunk(3)
        query_bias, value_bias = self.in_proj_bias.chunk(3)[::2]
        by_head = (self.num_heads, self.head_dim)
        queries = F.linear(query, to_query, query_bias).unflatten(-1, by_head) * self.head_dim**-0.5
        asked = torch.einsum("bkhd,hdw->bhkw", queries, to_key.unflatten(0, by_head))
        weight = (asked.flatten(1, 2) @ key.transpose(1, 2)).softmax(-1)  # (b, h * k, m)
        weight = F.dropout(weight, self.dropout, self.training)
        seen, total = (x.unflatten(1, asked.shape[1:3]) for x in (weight @ key, weight.sum(-1, keepdim=True)))
        found = torch.einsum("bhkw,hdw->bhkd", seen, to_value.unflatten(0, by_head))
        found = found + total * value_bias.view(self.num_heads, 1, -1)  # the total is 1 but for dropout
        return self.out_proj(found.transpose(1, 2).flatten(2)), None
