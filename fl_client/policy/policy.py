"""What a site allows, checked against what a server asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, Strict

from fl_common.errors import PolicyError
from fl_common.plugins import find_plugin, same_package
from fl_common.validation import Count, Flag, Fraction, Positive, Text, checked
from strategies.wire.job import Job
from tasks.contract import TrainConfig

Names = tuple[Text, ...]


@checked("policy")
class Policy:
    """What the site allows; nothing that a server sends can widen it."""

    min_rows: Count = 5
    min_group_size: Count = 5
    min_subgroup_rows: Count = 5
    tasks: Names | None = None
    models: Names | None = None
    strategies: Names | None = None
    weights_may_leave: Flag = True
    custom_code: Flag = False
    plugins: Names = ()
    max_local_epochs: Count = 100
    max_local_steps: Count = 100_000
    epsilon_budget: Positive | None = None
    epsilon_delta: Fraction = 1e-5
    secure_aggregation: Flag = False
    secagg_min_sites: Annotated[int, Strict(), Field(ge=3)] = 3

    def check(self, job: Job) -> None:
        """Refuse a job that asks for more than the site allows.

        Raises
        ------
        PolicyError
            Naming the policy key.
        """
        asked = (("tasks", job.task), ("models", job.model.name), ("strategies", job.strategy))
        for key, value in asked:
            allowed: tuple[str, ...] | None = getattr(self, key)
            if allowed is not None and value not in allowed:
                raise PolicyError(f"policy.{key} allows {list(allowed)}, the server asks {value!r}")
        for group, name in used_names(job):
            self.check_plugin(group, name)
        if ":" in job.model.name and not self.custom_code:
            raise PolicyError(
                f"model '{job.model.name}' is custom code; to allow it set policy.custom_code: true"
            )
        if self.secure_aggregation and not job.secagg:
            raise PolicyError(
                "policy.secure_aggregation is true, the server asks for unmasked results"
            )
        self.check_train(job.train)

    def check_plugin(self, group: str, name: str) -> None:
        """Refuse a name that an installed package adds, unless the site allows the package.

        Raises
        ------
        PolicyError
            Naming the package and the policy key.
        """
        plugin = find_plugin(group, name)
        if plugin is None or any(same_package(plugin.package, own) for own in self.plugins):
            return
        raise PolicyError(
            f"{group} '{name}' comes from the plugin '{plugin.package}'; to let it run here set "
            f"policy.plugins: [{', '.join([*self.plugins, plugin.package])}]"
        )

    def check_train(self, train: TrainConfig) -> None:
        """Refuse more local work than the site allows.

        Raises
        ------
        PolicyError
            Naming the policy key.
        """
        limits = (
            ("max_local_epochs", train.local_epochs, self.max_local_epochs),
            ("max_local_steps", train.local_steps, self.max_local_steps),
        )
        for key, value, limit in limits:
            if value is None and key == "max_local_steps":
                continue
            if type(value) is not int or value > limit:  # NaN is not above any limit
                raise PolicyError(f"policy.{key} is {limit}, the server asks {value!r}")

    def subgroup_may_leave(self, num_members: int, num_rows: int) -> bool:
        """Say whether a subgroup's sums may leave.

        Few members are told by their own sums, few others by the difference to all rows.
        """
        others = num_rows - num_members
        return num_members >= self.min_subgroup_rows and (
            others == 0 or others >= self.min_subgroup_rows
        )

    def check_rows(self, what: str, num_rows: int) -> None:
        """Refuse to answer from too few rows."""
        if num_rows < self.min_rows:
            raise PolicyError(f"policy.min_rows is {self.min_rows}, the {what} has {num_rows} rows")


def used_names(job: Job) -> list[tuple[str, str]]:
    """Return every name of a job that a plugin may add, with its group."""
    extra = job.schema.get("extra_metrics")
    asked = extra.values() if isinstance(extra, Mapping) else ()
    targets = [str(metric.get("_target_")) for metric in asked if isinstance(metric, Mapping)]
    return [
        ("tasks", job.task),
        ("models", job.model.name),
        ("strategies", job.strategy),
        *(("metrics", target) for target in targets),
    ]
