"""The states that were found, how each was come by, and whether each heals (I8). Pure."""

from __future__ import annotations


class Graph:
    """States by number, in the order they were found. A key names a state before it has a number."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._labels: list[str] = []
        self._depths: list[int] = []
        self._numbers: dict[bytes, int] = {}
        self._waits: dict[int, bytes] = {}
        self._healed: set[int] = set()

    def __len__(self) -> int:
        return len(self._parents)

    @property
    def deepest(self) -> int:
        return max(self._depths, default=0)

    def add(self, key: bytes, parent: int, label: str) -> int:
        """A new state: its number."""
        number = self._numbers[key] = len(self._parents)
        self._parents.append(parent)
        self._labels.append(label)
        self._depths.append(0 if parent < 0 else self._depths[parent] + 1)
        return number

    def path(self, number: int) -> list[str]:
        """The commands that led to a state."""
        labels = []
        while number >= 0:
            labels.append(self._labels[number])
            number = self._parents[number]
        return labels[::-1]

    def waits(self, number: int, key: bytes) -> None:
        """Time and reapers take this state to that one."""
        self._waits[number] = key

    def heals(self, number: int) -> None:
        """Time can do no more for this state, and one good worker ended every job in it."""
        self._healed.add(number)

    def unhealed(self) -> list[str]:
        """I8: from every state, waiting leads to where one good worker ends every job."""
        good = set(self._healed)
        problems = []
        for start in range(len(self)):
            path: list[int] = []
            number = start
            while number not in good:
                if number in path:
                    problems.append(
                        "I8 waiting goes round in circles\n  after\n    " + "\n    ".join(self.path(start))
                    )
                    break
                path.append(number)
                number = self._numbers.get(self._waits[number], -1)
                if number < 0:
                    problems.append(
                        "I8 waiting leads to where no command led\n  after\n    "
                        + "\n    ".join(self.path(start))
                    )
                    break
            else:
                good.update(path)
        return problems
