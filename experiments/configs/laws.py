"""Settings that agents with quantiles or particles share.

Their losses are linear from errors of about 1 on. Where returns are a hundred times as large, the rare falls hardly pull and values
grow without end (docs/results), so returns are brought to about 10.
"""

TUNED = {"gymnax/CartPole-v1": {"reward_scale": 0.1, "num_atoms": 20}}
