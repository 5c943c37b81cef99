"""Several labels at once, or none: customer messages.

Few rows carry each label, so positives weigh more in the loss, and the thresholds are fitted on held-out rows.

    python recipes/multi_label.py                       the tickets of data/
    python recipes/multi_label.py rows.csv              labels as a list, or joined by , ; or |
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    recipe(DATA / "tickets", class_weights="balanced")
