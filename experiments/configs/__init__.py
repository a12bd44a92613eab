"""Settings by agent and environment, where they differ from the agent's defaults. One file an agent, one dictionary: TUNED."""
