"""Settings that offline agents share: small networks for small tasks, on two cores. `family` makes the TUNED of each."""

SMALL = {"hidden": (64, 64)}
RATE = {"learning_rate": 1e-3}
RATES = {"policy_learning_rate": 1e-3, "critic_learning_rate": 1e-3}
MODEL = {  # a small model, learned in fewer updates, and temperatures that come down within as few
    **RATES, "temperature_learning_rate": 1e-3, "model_hidden": (64, 64), "num_members": 5, "num_elites": 3,
    "model_updates": 2_500.0,
}  # fmt: skip
PENDULUM = {"reward_scale": 0.1}
MAZE = {"reward_scale": 100.0, "gamma": 0.995}  # one reward of 1 at the end of some hundred steps
LOCOMOTION = {"hidden": (64, 64), "batch_size": 128}
FAR = {"num_steps": 10}  # an early fall pays less than standing only later: of one step, values learn it too late
BODIES = ("brax/hopper", "brax/halfcheetah", "brax/walker2d")
MAZES = ("rljax/PointMaze-umaze", "rljax/PointMaze-medium", "rljax/PointMaze-large")


def family(rates: dict, pendulum: dict, maze: dict, locomotion: dict | None = None) -> dict[str, dict]:
    """Settings by environment: what all have, and an agent's own for Pendulum, for the mazes and for locomotion."""
    return {
        "gymnax/Pendulum-v1": {**SMALL, **rates, **pendulum},
        **{name: {**SMALL, **rates, **maze} for name in MAZES},
        **{name: {**LOCOMOTION, **rates, **(locomotion or {})} for name in BODIES},
    }
