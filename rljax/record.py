"""Frozen dataclasses that are pytrees: how every record of the suite is declared."""

import dataclasses
from typing import dataclass_transform

import jax


def static(default=dataclasses.MISSING, of_state: bool = True, **kwargs):
    """A field that shapes the program (sizes, names, switches): another value compiles anew. Other fields are traced.

    of_state: whether it may shape an agent's state too, so that who begins as another must have it alike.
    """
    return dataclasses.field(default=default, metadata={"static": True, "of_state": of_state}, **kwargs)


def signed(default: float):
    """A traced number that may be negative although its default is not; the binaries refuse that of others."""
    return dataclasses.field(default=default, metadata={"signed": True})


def is_static(field: dataclasses.Field) -> bool:
    return field.metadata.get("static", False)


def shapes_state(field: dataclasses.Field) -> bool:
    return is_static(field) and field.metadata["of_state"]


@dataclass_transform(frozen_default=True, field_specifiers=(static, signed, dataclasses.field))
def record(cls: type) -> type:
    """Make `cls` a frozen dataclass and a pytree; fields are children unless they are `static`. Adds `replace(**changes)`.

    Registered as a node of its own kind rather than by `jax.tree_util.register_dataclass` (as flax.struct does): the tree
    structures of two such classes with equal fields compare equal in jaxlib 0.10, so that a jitted function given the one
    can, when their hashes fall together, run the program compiled for the other.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    children = [field.name for field in fields if not is_static(field)]
    fixed = [field.name for field in fields if is_static(field)]
    names = [jax.tree_util.GetAttrKey(name) for name in children]

    def flatten(value):
        return [getattr(value, name) for name in children], tuple(getattr(value, name) for name in fixed)

    def flatten_with_keys(value):
        leaves, aux = flatten(value)
        return list(zip(names, leaves, strict=True)), aux

    def unflatten(aux, leaves):
        value = object.__new__(cls)
        for name, field in (*zip(children, leaves, strict=True), *zip(fixed, aux, strict=True)):
            object.__setattr__(value, name, field)
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    cls.replace = dataclasses.replace
    return cls
