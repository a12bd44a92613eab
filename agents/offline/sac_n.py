"""Soft actor-critic with many critics, and EDAC. An et al., 2021, "Uncertainty-based offline reinforcement learning with
diversified Q-ensemble", arXiv:2110.01548.

The lowest of N critics is low where they disagree, which is off the data: SAC-N is soft actor-critic (rljax.agents.online.sac) with
more than two of them, read from data. EDAC (`diversify`) needs fewer, as it keeps the critics' gradients in the action apart.
"""

import jax

from rljax import sources
from rljax.agents.online import sac
from rljax.errors import UserError
from rljax.losses.conservative import gradient_similarity
from rljax.networks import heads
from rljax.networks.feed_forward import FeedForward, structure
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Params, Sample, Source


@record
class Config(sources.Online, heads.Config):
    """Defaults: the authors' for halfcheetah, as in CORL (github.com/corl-team/CORL, algorithms/offline/sac_n.py and edac.py).

    There Hopper takes 200 to 500 critics with SAC-N and 50 with EDAC, Walker2d 20 with SAC-N.
    """

    policy_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    gamma: float = 0.99
    target_rate: float = 0.005  # share of the new critics in the target critics, each update
    reward_scale: float = 1.0
    diversity: float = 1.0  # eta of EDAC; 5 for the medium-expert data of halfcheetah and walker2d
    initial_temperature: float = 1.0
    entropy_per_dimension: float = -1.0  # target entropy, times the number of dimensions
    diversify: bool = static(False)  # EDAC; False: SAC-N
    learn_temperature: bool = static(True)
    num_critics: int = static(10)
    hidden: tuple[int, ...] = static((256, 256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)  # in the critics
    dtype: str = static("float32")
    batch_size: int = static(256)
    num_updates: int = static(8)  # on batches drawn together


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """SAC-N or EDAC for continuous actions in [-1, 1]. Reads a `Sample` [B] at a time; its state is SAC's.

    Raises:
      UserError: the actions are discrete, or there is but one critic to diversify.
    """
    if not isinstance(spec.action, Continuous):
        raise UserError(f"SAC-N and EDAC need continuous actions; here are {spec.action.num_actions} discrete ones.")
    if not config.diversify:
        return sac.make(spec, config)
    if config.num_critics < 2:
        raise UserError(f"EDAC keeps critics apart: num_critics={config.num_critics} must be at least 2.")
    head = heads.of(config)
    critic = FeedForward(head.size, layer_norm=config.layer_norm, **structure(spec, config))  # any one of the ensemble

    def action_gradients(critic_params: Params, observation, action):
        """Each critic's gradient in the action, [E, B, A]."""
        q = lambda params, action: heads.preferred(head.law(critic.apply(params, observation, action))).sum()
        return jax.vmap(jax.grad(q, 1), (0, None))(critic_params, action)

    def penalty(critic_params: Params, state: sac.State, batch: Sample, key: Key):
        gradients = action_gradients(critic_params, batch.transition.observation, batch.transition.action)
        similarity = jax.vmap(gradient_similarity, 1)(gradients)
        loss = 0.5 * config.diversity * (batch.weight * similarity).mean()  # halved, as SAC's squared errors are
        return loss, {"loss/diversity": loss, "critic/similarity": similarity.mean()}

    return sac.make(spec, config, penalty)


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset; with `online`, a mixture of them and of its own steps."""
    return sources.of_data(env, config, dataset)
