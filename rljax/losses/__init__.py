"""Pure loss functions of arrays, one topic a file, for one transition or one sequence: vmap them over a batch.

`_tm1` is the step before, `_t` the step after an action. `discount_t` is gamma where the MDP goes on and 0 where it terminated;
a time limit is not a termination.
"""
