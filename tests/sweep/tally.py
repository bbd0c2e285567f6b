"""Outcomes of a sweep over well-formed variants of files."""

import collections
import dataclasses


@dataclasses.dataclass
class Tally:
    """Counts of one reader: every variant agrees with an independent reader or is refused.

    A variant that is read without an error and differs is a silent difference: the one outcome
    that may not happen.
    """

    reader: str
    agreed: int = 0
    refused: dict[str, list[str]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    different: list[str] = dataclasses.field(default_factory=list)

    def agree(self, variant: str, same: bool, difference: str = "") -> None:
        """Count a variant that was read; ``same``: as the independent reader reads it."""
        if same:
            self.agreed += 1
        else:
            self.different.append(f"{variant}: {difference or 'other values'}")

    def refuse(self, variant: str, reason: str) -> None:
        """Count a variant that was refused; ``reason`` without file names."""
        self.refused[reason].append(variant)

    def __str__(self) -> str:
        refused = sum(map(len, self.refused.values()))
        lines = [
            f"{self.reader}: {self.agreed + refused + len(self.different)} variants, "
            f"{self.agreed} agree, {refused} refused, {len(self.different)} silent differences"
        ]
        lines += [f"  refused {len(names)}: {reason}" for reason, names in self.refused.items()]
        return "\n".join(lines + [f"  DIFFERS {name}" for name in self.different])
