"""Sentiment of English remarks: word vectors with three small classifiers, side by side.

python recipes/sentiment.py                                   the films and gadgets of data/
python recipes/sentiment.py reviews.csv --base vectors.txt    your rows, your word vectors
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    heads = [{"head_type": "linear"}, {"head_type": "mlp"}, {"head_type": "cnn"}]
    recipe(DATA / "films", DATA / "gadgets", variants=heads)
