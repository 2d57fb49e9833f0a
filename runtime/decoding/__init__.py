"""Writing token by token: a model of language from a prompt, a decoder from an encoder's states.

How a token becomes the model's input (`_token_input`), how its output becomes scores
(`_token_scores`), both around one model (`_token_model`); which token is written (`_choice`) and
when to stop (`_stops`). On these stand `decode` and `beam_search`.
"""

from __future__ import annotations

from ._beam import Hypothesis
from ._beam_search import BeamSearch, beam_search
from ._decode import Decoding, decode

__all__ = ["BeamSearch", "Decoding", "Hypothesis", "beam_search", "decode"]
