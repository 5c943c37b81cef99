"""Several labels at once, or none: customer messages.

On few rows a linear classifier on the mean of the word vectors holds up best; the probability from which a label is
given is fitted for each label on held-out rows.

python recipes/multi_label.py                                  the tickets of data/
python recipes/multi_label.py --route probe                    the same on a frozen encoder
python recipes/multi_label.py rows.csv --set head_type=cnn     labels as a list, or joined by , ; or |
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    recipe(DATA / "tickets", route="word2vec", head_type="linear")
