"""Conservative offline model-based policy optimisation. Yu et al., 2021, arXiv:2102.08363.

As MOPO (mopo.py), but who learns from data and rollouts is conservative Q-learning (cql.py): critics pay for the soft maximum of
Q in the states of the mixture, and are paid for Q of what was done in those of the data. So values are low where the model leads
and the data do not, and no measure of the model's uncertainty is needed.
"""

import jax

from rljax.agents.offline import mopo
from rljax.agents.online import sac
from rljax.errors import UserError
from rljax.losses import conservative
from rljax.networks import heads
from rljax.networks.policies import q_taken, sampled_values
from rljax.record import record, static
from rljax.types import Agent, Continuous, EnvSpec, Key, Sample

source = mopo.source


@record
class Config(mopo.Learner):
    """Defaults: those of a later implementation for D4RL's hopper and halfcheetah (github.com/yihaosun1124/OfflineRL-Kit,
    run_example/run_combo.py), where the weight of 5, here halved as errors are, is 0.5 for half of the data, and walker2d's horizon
    1. The paper, too, draws half of its batches from data where these are narrow."""

    real_share: float = static(0.5)
    conservative_weight: float = 2.5  # beta
    model_states_alone: bool = static(False)  # values are pushed down in the model's states, not in the whole mixture's
    entropy_in_target: bool = static(False)
    num_samples: int = static(10)  # actions of each law in a soft maximum
    hidden: tuple[int, ...] = static((256, 256, 256))


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """COMBO for continuous actions in [-1, 1], and observations that are vectors. Reads a `Sample` [B] at a time.

    Raises:
      UserError: the actions are discrete, or what MOPO raises.
    """
    if not isinstance(spec.action, Continuous):
        raise UserError(f"COMBO needs continuous actions; here are {spec.action.num_actions} discrete ones.")
    policy, critic = sac.networks(spec, config)
    head = heads.of(config)
    values = sampled_values(spec, policy, critic, config.num_samples, head)

    def penalty(critic_params, state: sac.State, mixture: Sample, key: Key):
        """Of a mixture that begins with the steps of the data."""
        real, _ = mopo.shares(config)
        steps = mixture.transition
        data = jax.tree.map(lambda x: x[:real], steps)
        low = jax.tree.map(lambda x: x[real:], steps) if config.model_states_alone else steps
        q, log_density = values(state.policy.params, critic_params, low, jax.random.split(key, 3))
        soft_maximum = jax.vmap(jax.vmap(conservative.sampled_soft_maximum, (1, 1)), (0, None))(
            q, log_density
        )  # [E, B]
        q_data = q_taken(critic, spec, critic_params, data.observation, data.action, head)
        gap = soft_maximum.mean(axis=1) - (mixture.weight[:real] * q_data).mean(axis=1)
        loss = config.conservative_weight * gap.sum()
        return loss, {"loss/conservative": loss, "critic/gap": gap.mean()}

    learner = sac.make(spec, config, penalty, config.entropy_in_target)
    return mopo.make(spec, config, learner, lambda state, steps, key: steps.reward)
