"""How a model's keys carry their position, found by running it at two offsets."""

from __future__ import annotations

import weakref

from kvcore.cache import rope
from kvcore.engine import forward
from kvcore.models.lm import LM

_PLANS: weakref.WeakKeyDictionary[LM, rope.RopePlan] = weakref.WeakKeyDictionary()


def rope_plan(lm: LM) -> rope.RopePlan:
    """Probe how each layer's keys carry their position; remembered per loaded model.

    Raises
    ------
    NotExact
        Naming the layer that cannot be re-positioned exactly.
    """
    if lm not in _PLANS:
        generator = range(lm.bos_id + 3, lm.bos_id + 3 + 7 * rope.PROBE_TOKENS, 7)
        ids = [i % lm.config.vocab_size for i in generator]
        at = [
            forward.run(lm, forward.pad_ids(lm, [ids], [start]))[1]
            for start in (0, rope.PROBE_SHIFT)
        ]
        pairs = [list(zip(c.keys, c.values, strict=True)) for c in at]
        _PLANS[lm] = rope.fit_layers(lm, *pairs)
    return _PLANS[lm]
