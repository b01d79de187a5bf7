"""What a person sees during a run: a progress bar over the rounds, a table at the end."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from fl_common.terminal import console as wide_console
from fl_server.config.run_config import RunConfig
from fl_server.results.records import RoundRecord, RunOutcome
from fl_server.results.scoring import final_round
from fl_server.rounds.sites import Site
from tasks.scores import DIRECTIONS, MetricPath

ARROWS = {"max": "↑", "min": "↓", "zero": "→0"}


class Progress:
    """Show a run on the terminal."""

    def __init__(self, config: RunConfig, console: Console | None = None) -> None:
        self._config = config
        self._console = console or wide_console()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[last]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("waiting for sites", total=config.rounds + 1, last="")
        self._sites: list[Site] = []

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print one line above the bar."""
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def admitted(self, sites: list[Site]) -> None:
        """Name the sites."""
        self._sites = sites
        choosing = sum(site.num_validation for site in sites)
        rows = sum(site.num_train + site.num_holdout for site in sites) + choosing
        names = ", ".join(site.name for site in sites[:8])
        more = f" and {len(sites) - 8} more" if len(sites) > 8 else ""
        self.say(f"{self._config.usecase.title}: {len(sites)} sites, {rows} rows ({names}{more})")
        if choosing:
            idle = [site.name for site in sites if not site.num_validation]
            shown = ", ".join(idle[:8]) + (f" and {len(idle) - 8} more" if len(idle) > 8 else "")
            without = f"; without any, these take no part in that: {shown}" if idle else ""
            self.say(f"  {choosing} validation rows choose the round whose model counts{without}")
        self._bar.update(self._task, description="baseline")

    def round_finished(self, record: RoundRecord) -> None:
        """Advance the bar; one line a round where the output is not a terminal."""
        rule = self._config.usecase.score
        score = "absent" if record.score is None else f"{record.score:.4f}"
        text = f"{rule.name} {score}"
        if record.validation_score is not None:
            text += f"  validation {record.validation_score:.4f}"
        if record.epsilon is not None:
            text += f"  epsilon {record.epsilon:.3g}"
        if record.status != "ok":
            text += f"  {record.status}: {record.reason}"
        next_round = f"round {record.round + 1}"
        self._bar.update(self._task, completed=record.round + 1, description=next_round, last=text)
        if not self._console.is_terminal or record.status != "ok":
            name = "baseline" if record.round == 0 else f"round {record.round}"
            self.say(f"  {name:<10} {text}   ({record.seconds:.2f} s)")
        for site in record.sites:
            if site.status not in ("ok", "training"):
                self.say(f"  {site.site}: {site.status} in {site.phase}: {site.reason}")

    def finished(self, outcome: RunOutcome) -> None:
        """Print the tables."""
        self._bar.stop()
        self._console.print(self._scores(outcome))
        self._console.print(self._site_table(outcome))
        final = final_round(outcome.rounds, self._config.usecase.score)
        if final.validation_score is not None:
            stop = "stopped early: " if outcome.stopped_early else ""
            name = "the baseline" if final.round == 0 else f"round {final.round}"
            self.say(f"{stop}the model of {name} is the best on the validation rows, and counts")
        self.say(f"results: {self._config.folder / 'result.json'}")

    def _scores(self, outcome: RunOutcome) -> Table:
        rule = self._config.usecase.score
        baseline, final = outcome.rounds[0], final_round(outcome.rounds, rule)
        better = f"{ARROWS[rule.direction]} {DIRECTIONS[rule.direction]}"
        table = Table(title=f"{self._config.usecase.slug}: {rule.name} ({better})")
        table.add_column("metric")
        table.add_column("out of the box", justify="right")
        table.add_column("after fine-tuning", justify="right")
        for path in self._shown():
            values = [record.card.look_up(path)[0] for record in (baseline, final)]
            cells = ["–" if value is None else f"{value:.4f}" for value in values]
            table.add_row(str(path), *cells, style="bold" if path == rule.path else "")
        return table

    def _shown(self) -> list[MetricPath]:
        usecase, metrics = self._config.usecase, self._config.metrics
        names = [usecase.score.name, *metrics.headline, *usecase.extra_columns]
        classes = self._config.schema.get("classes") or []
        if metrics.per_class and len(classes) <= 6:
            names += [f"{metrics.per_class}_{name}" for name in classes]
        return list(dict.fromkeys(map(MetricPath.parse, names)))

    def _site_table(self, outcome: RunOutcome) -> Table:
        table = Table(title="sites")
        table.add_column("site")
        choosing = any(site.num_validation for site in self._sites)
        counted = ["train rows", *(["validation rows"] if choosing else []), "holdout rows"]
        for name in (*counted, "rounds taken part", "MB up", "MB down"):
            table.add_column(name, justify="right")
        for site in self._sites[:20]:
            records = [s for r in outcome.rounds for s in r.sites if s.site == site.name]
            taken = sum(s.phase == "train" and s.status == "ok" for s in records)
            table.add_row(
                site.name,
                str(site.num_train),
                *([str(site.num_validation)] if choosing else []),
                str(site.num_holdout),
                f"{taken} of {len(outcome.rounds) - 1}",
                f"{sum(s.bytes_up for s in records) / 1e6:.2f}",
                f"{sum(s.bytes_down for s in records) / 1e6:.2f}",
            )
        if len(self._sites) > 20:
            table.caption = f"and {len(self._sites) - 20} more"
        return table
