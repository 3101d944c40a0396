"""A policy from the plain data of a config."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from lit_continual.methods.rehearsal.selection.samples import Policy
from lit_continual.runs.spec import build, find


def policy_of(spec: Mapping[str, Any] | str) -> Policy:
    """Build the policy that ``spec`` describes.

    Args:
        spec: ``{"_target_": name, argument: value, …}``, or the name alone: a class of ``methods.rehearsal.selection``, or
            the path of any class or function that is a :class:`Policy`.

    Raises:
        ValueError: If the name is not there or does not take the arguments.

    Example:
        >>> policy_of({"_target_": "CertaintyCoverage", "most_certain": 5}).most_certain
        5
    """
    packages = ["lit_continual.methods.rehearsal.selection"]
    arguments: dict[str, Any] = {"_target_": spec} if isinstance(spec, str) else dict(spec)
    name = arguments.get("_target_")
    if isinstance(name, str) and inspect.isfunction(function := find(name, packages)):
        return partial(function, **{k: v for k, v in arguments.items() if k != "_target_"})
    policy: Policy = build(arguments, packages)
    return policy
