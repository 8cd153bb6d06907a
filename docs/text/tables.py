"""Makes the tables of docs/text.md of AG News' test set, a file of rows label, title, description.

    python docs/text/tables.py AG_NEWS/test.csv

`topics/{train,test}.csv`: two headlines a row, with the topics of both as tags. `headlines/{train,test}.jsonl`: a
headline, and two to four descriptions of which one is its own. Nothing of a test table is in its train table.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from pathlib import Path

TOPICS = ("World", "Sports", "Business", "Sci/Tech")


def write_topics(rows: list[list[str]], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, part in (("train", rows[:2000]), ("test", rows[2000:2800])):
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("text", "labels"))
            for pair in zip(part[::2], part[1::2], strict=True):
                topics = sorted({TOPICS[int(label) - 1] for label, _, _ in pair})
                table.writerow((" / ".join(title for _, title, _ in pair), ";".join(topics)))


def write_headlines(rows: list[list[str]], folder: Path, random_: random.Random) -> None:
    folder.mkdir(exist_ok=True)
    for name, part in (("train", rows[:500]), ("test", rows[1000:1200])):
        descriptions = [description.replace("\\", " ") for _, _, description in part]
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for number, (_, title, _) in enumerate(part):
                others = descriptions[:number] + descriptions[number + 1 :]
                count = 2 + number % 3
                label = random_.randrange(count)
                choices = random_.sample(others, count - 1)
                choices.insert(label, descriptions[number])
                print(json.dumps({"context": title, "choices": choices, "label": label}), file=file)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", help="AG News' test.csv")
    with open(parser.parse_args().file, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row[0].isdigit()]
    drawn = random.Random(0)
    drawn.shuffle(rows)
    write_topics(rows, Path("topics"))
    write_headlines(rows, Path("headlines"), drawn)


if __name__ == "__main__":
    main()
