"""A policy from the plain data of a config."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from lit_continual.methods.rehearsal.selection.samples import Policy
from lit_continual.runs.registry import flat
from lit_continual.runs.spec import build, find


def policy_of(spec: Mapping[str, Any] | str) -> Policy:
    """Build the policy that ``spec`` describes.

    Args:
        spec: ``class_path`` and ``init_args``, or the name alone: a class of ``methods.rehearsal.selection``, or the
            path of any class or function that is a :class:`Policy`.

    Raises:
        ValueError: If the name is not there or does not take the arguments.

    Example:
        >>> policy_of({"class_path": "CertaintyCoverage", "init_args": {"most_certain": 5}}).most_certain
        5
    """
    packages = ["lit_continual.methods.rehearsal.selection"]
    arguments = flat(spec)
    if inspect.isfunction(function := find(arguments.pop("_target_"), packages)):
        return partial(function, **arguments)
    policy: Policy = build(spec, packages)
    return policy
