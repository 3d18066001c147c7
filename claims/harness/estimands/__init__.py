"""What claims are about: each function turns rows into one number with its interval.

One module a topic: `paired` (benefits), `ranking`, `divergence`, `hidden_states` and
`context_switch`; `base` holds what they return.
"""
