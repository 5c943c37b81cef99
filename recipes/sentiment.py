"""Sentiment of English remarks: each route on the same rows, side by side.

python recipes/sentiment.py                                   the films of data/
python recipes/sentiment.py reviews.csv --route lora          your rows, one route
python recipes/sentiment.py data/films data/gadgets --route word2vec --base vectors.txt
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    routes = [{"route": "word2vec"}, {"route": "probe"}, {"route": "lora"}, {"route": "full"}]
    recipe(DATA / "films", variants=routes)
