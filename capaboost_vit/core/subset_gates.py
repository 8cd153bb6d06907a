"""Gates of subsets: which k of n things to take, learned from rewards of draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class SubsetGates:
    """Distribution over subsets S of k of n items, with gates a: `P(S) ~ prod_{i in S} exp(a_i)`.

    It is that of n independent draws with probabilities sigmoid(a_i), given that exactly k are drawn. From M
    independent subsets with rewards R the gates take a step along the gradient of the expected reward,

        a_i += lr / (M - 1) * sum_m (R_m - mean R) [i in S_m].

    The estimate is unbiased: the derivative of log P(S) by a_i is [i in S] - P(i in S), and the second term cancels, as
    it is the same for all draws. Equal rewards change nothing.

    Source: DAS, arXiv 2309.01479. Deviations: its code draws without replacement by the sigmoids, and uses the gradient
    of n independent draws, with a further factor sigmoid(a_i) (1 - sigmoid(a_i)); and its subsets have to differ, so
    that it never ends if there are fewer subsets than draws.
    """

    def __init__(self, n: int, k: int, *, lr: float) -> None:
        self.values, self.k, self.lr = np.zeros(n), k, lr

    def draw(self, random: np.random.RandomState) -> tuple[int, ...]:
        """Draws a subset: each i in turn, with its conditional probability given those before it."""
        # a factor of all odds changes nothing; below e^-30 is as good as never, and products stay above zero
        odds = np.exp(np.maximum(self.values - self.values.max(initial=0), -30))
        # sums[i, r]: over the subsets of r of i, i + 1, ... of the product of their odds
        sums = np.zeros((len(odds) + 1, self.k + 1))
        sums[:, 0] = 1
        for i in reversed(range(len(odds))):
            sums[i, 1:] = sums[i + 1, 1:] + odds[i] * sums[i + 1, :-1]
        subset: list[int] = []
        for i, odd in enumerate(odds):
            left = self.k - len(subset)
            if left and random.random_sample() * sums[i, left] < odd * sums[i + 1, left - 1]:
                subset.append(i)
        return tuple(subset)

    def learn(self, subsets: Sequence[tuple[int, ...]], rewards: Sequence[float]) -> None:
        """Takes one step from drawn subsets and their rewards."""
        baseline = sum(rewards) / len(rewards)
        for subset, reward in zip(subsets, rewards, strict=True):
            self.values[list(subset)] += self.lr / (len(rewards) - 1) * (reward - baseline)

    def best(self) -> tuple[int, ...]:
        """The k items with the highest gates, in ascending order."""
        return tuple(sorted(map(int, np.argsort(-self.values, kind="stable")[: self.k])))
