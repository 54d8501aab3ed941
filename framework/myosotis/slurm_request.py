"""What a study asks of SLURM for each of its jobs, and whether the cluster has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from myosotis import slurm
from myosotis.errors import ConfigurationError, unknown_name
from myosotis.options import Options
from myosotis.slurm import Node, SlurmError
from myosotis.slurm_options import minutes_of


class SlurmRequest:
    """What is asked for a job.

    Attributes:
        nodes: those of the partition that is asked for.

    Raises:
        ConfigurationError: there is no such partition, or none to go to by default.
        SlurmError: SLURM cannot be asked.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.nodes = self._chosen(slurm.nodes())

    def parameters(self) -> dict[str, Any]:
        """Give what sbatch is told, by the names of its options."""
        options, memory = self.options.slurm, self.options.memory_gigabytes
        asked = {
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "time": options.minutes,
            "cpus_per_task": self.options.cpus,
            "gpus_per_node": int(self.options.gpus) or None,
            "mem": None if memory is None else f"{int(memory * 1024)}M",
        }
        return {key: value for key, value in asked.items() if value is not None}

    def _chosen(self, nodes: Sequence[Node]) -> list[Node]:
        """Give the nodes of the partition that is asked for."""
        partition = self.options.slurm.partition
        known = sorted({node.partition for node in nodes})
        if partition is None:
            chosen = [node for node in nodes if node.default]
            if not chosen:
                raise ConfigurationError(
                    "hydra.launcher.slurm.partition must be given, for this cluster has no default; it has "
                    f"{', '.join(known) or 'none'}"
                )
            return chosen
        chosen = [node for node in nodes if node.partition in partition.split(",")]
        for name in partition.split(","):
            if name not in known:
                raise ConfigurationError(
                    "hydra.launcher.slurm.partition: " + unknown_name("partition", name, known)
                )
        return chosen

    def check(self) -> None:
        """Refuse jobs that would wait for ever, or that sbatch would refuse."""
        if self.options.gpus != int(self.options.gpus):
            raise ConfigurationError(
                f"hydra.launcher.gpus must be whole on SLURM, but got {self.options.gpus:g}; give 0, 1 or more"
            )
        name = self.nodes[0].partition
        if not any(map(self.room, self.nodes)):
            has = sorted({_resources(node) for node in self.nodes})
            raise ConfigurationError(
                f"a node of SLURM's partition {name} must have what a worker asks for, "
                f"{self.options.resources()}, but its nodes have {'; '.join(has)}; ask for less, or another "
                "partition"
            )
        limits = [(minutes_of(node.minutes), node.minutes) for node in self.nodes]
        known = [(minutes, text) for minutes, text in limits if minutes is not None]
        if len(known) == len(limits) and self.options.slurm.minutes > max(known)[0]:
            raise ConfigurationError(
                f"hydra.launcher.slurm.time must be at most what partition {name} allows, {max(known)[1]}, but got "
                f"{self.options.slurm.time}; a trial that takes longer goes on in its job's next turn"
            )
        self._ask_sbatch()

    def _ask_sbatch(self) -> None:
        """Let SLURM itself say whether it would take such a job: it knows accounts and qualities of service."""
        parameters = {**self.parameters(), **self.options.slurm.additional}
        flags = [
            f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}")
            for key, value in parameters.items()
        ]
        try:
            slurm.ask("sbatch", "--test-only", *flags, "--wrap=true")
        except SlurmError as error:
            raise ConfigurationError(
                f"SLURM must take the jobs that hydra.launcher.slurm describes, but sbatch says: {error}"
            ) from error

    def room(self, node: Node) -> int:
        """Count the units that fit into a node."""
        memory = int((self.options.memory_gigabytes or 0) * 1024)
        asked = [
            (node.cpus, self.options.cpus),
            (node.gpus, int(self.options.gpus)),
            (node.megabytes, memory),
        ]
        return min(has // amount for has, amount in asked if amount)


def _resources(node: Node) -> str:
    return f"{node.cpus} cores, {node.gpus} GPUs, {node.megabytes / 1024:.1f} GB of memory"
