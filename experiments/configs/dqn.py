"""DQN. Its defaults are those for CartPole."""

TUNED = {}
