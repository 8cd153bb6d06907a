"""A program: NOMAD's next point, from the points and objectives that it is given on standard input as JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Prints the first point that has no objective yet, `point [1.0, 2.0]`, or `point null` if NOMAD ends before.

    NOMAD repeats itself with the same seed in a fresh process, so it is run from the start and answered from what is
    known. It only prints a parameter that it does not know, and goes on without it. The seed is a parameter alone: with
    `PyNomad.setSeed` beside it all seeds give the same points.
    """
    import PyNomad

    question = json.load(sys.stdin)
    known = iter(question["tried"])

    def objective(x: Any) -> int:
        """1 stands for success. No exception may leave it: NOMAD goes on behind one."""
        point = [x.get_coord(place) for place in range(x.size())]
        tried, value = next(known, (None, None))
        if tried is None:
            print("point", json.dumps(point), flush=True)
            os._exit(0)
        if tried != point:
            print(f"NOMAD asks for {point} where it asked for {tried} before", file=sys.stderr, flush=True)
            os._exit(3)
        x.setBBO(str(value).encode())
        return 1

    parameters = [
        f"DIMENSION {len(question['start'])}",
        f"BB_INPUT_TYPE ( {' '.join(question['types'])} )",
        "BB_OUTPUT_TYPE OBJ",
        "MAX_BB_EVAL 100000",
        "DISPLAY_DEGREE 0",
        f"SEED {question['seed']}",
    ]
    PyNomad.optimize(objective, question["start"], question["low"], question["high"], parameters)
    print("point null")


if __name__ == "__main__":
    main()
