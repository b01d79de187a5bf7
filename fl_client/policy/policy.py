"""What a site allows, checked against what a server asks."""

from __future__ import annotations

from dataclasses import dataclass

from fl_common.errors import PolicyError
from strategies.wire.job import Job
from tasks.contract import TrainConfig


@dataclass(frozen=True)
class Policy:
    """What the site allows; nothing that a server sends can widen it."""

    min_rows: int = 5
    min_group_size: int = 5
    min_subgroup_rows: int = 5
    tasks: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    strategies: tuple[str, ...] | None = None
    weights_may_leave: bool = True
    custom_code: bool = False
    max_local_epochs: int = 100
    max_local_steps: int = 100_000
    epsilon_budget: float | None = None
    epsilon_delta: float = 1e-5
    secure_aggregation: bool = False
    secagg_min_sites: int = 3

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
        if self.secure_aggregation and not job.secagg:
            raise PolicyError(
                "policy.secure_aggregation is true, the server asks for unmasked results"
            )
        self.check_train(job.train)

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
