"""Which route is worth it? All of them on one split, over seeds, with intervals, costs and a recommendation.

python recipes/compare.py                                      the headlines of data/
python recipes/compare.py --routes majority,tfidf,probe        the quick ones: a minute
python recipes/compare.py reviews.csv --max-minutes 25         your rows; what would not fit is left out
python recipes/compare.py reviews.csv --bases microsoft/deberta-v3-small,google-bert/bert-base-uncased --trials 5
"""

from pathlib import Path

from nlptransfer.cli import comparing, run_verb

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    run_verb(comparing(str(DATA / "headlines")), __doc__)
