"""Model-Bellman inconsistency penalised policy optimisation, MOBILE. Sun et al., 2023, "Model-Bellman inconsistency for model-based
offline reinforcement learning".

As MOPO (mopo.py), but imagined steps are paid less for how much the models of the ensemble differ in what the step is worth: in
their Bellman targets, by the target critics and the policy, rather than in the observations themselves. Errors that change no
value cost nothing. As in the authors' code the reward is not in the targets; here their discount and terminations are.
"""

import jax
from jaxtyping import Array, Float

from rljax.agents.offline import mopo
from rljax.agents.online import sac
from rljax.errors import UserError
from rljax.losses import dynamics as losses
from rljax.networks import dynamics
from rljax.record import record, static
from rljax.types import Agent, EnvSpec, Key, Transition

source = mopo.source


@record
class Config(mopo.Learner):
    """Defaults: the authors' for D4RL's locomotion (github.com/yihaosun1124/OfflineRL-Kit, run_example/run_mobile.py), where they
    differ by dataset. Their learning rate of the policy falls to 0, and their targets are at least 0."""

    penalty: float = 1.5  # beta
    horizon: int = static(1)
    entropy_in_target: bool = static(False)
    num_samples: int = static(10)  # draws of what follows, of each model


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """MOBILE for continuous actions in [-1, 1] or discrete ones, and observations that are vectors. Reads a `Sample` [B] at a time.

    Raises:
      UserError: there is but one elite, which never differs from itself, or what MOPO raises.
    """
    if config.num_elites < 2:
        raise UserError(f"MOBILE holds models against each other: num_elites={config.num_elites} must be at least 2.")
    model, values = dynamics.make(spec, config), sac.value_function(spec, config)

    def inconsistency(state: mopo.State, steps: Transition, key: Key) -> Float[Array, " B"]:
        """Of the elites' Bellman targets of what was done."""
        noise_key, act_key = jax.random.split(key)
        found = model.predict(state.model, steps.observation, steps.action)
        elites = model.elites(state.model)
        mean, std = (x[elites][..., :-1] for x in (found.mean, found.std))
        noise = jax.random.normal(noise_key, (config.num_samples, *mean.shape))
        following = steps.observation + mean + std * noise  # [M, E, B, O]
        learner = state.learner
        value, _ = values(
            learner.policy.params, learner.target_critic, 0.0, following.reshape(-1, *spec.observation_shape), act_key
        )
        target = config.gamma * (1.0 - found.ended[elites]) * value.reshape(noise.shape[:-1])
        return jax.vmap(losses.bellman_inconsistency)(target.T)

    def pay(state: mopo.State, steps: Transition, key: Key) -> Float[Array, " B"]:
        return (
            steps.reward - config.penalty * inconsistency(state, steps, key) / config.reward_scale
        )  # it is of scaled values

    return mopo.make(spec, config, pay=pay)
