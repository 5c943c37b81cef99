"""From films to gadgets and back, no label of the target looked at: what is closed of the gap to one that knew them?

python recipes/cross_domain_sentiment.py                                  by coral, self-training and adapt, fitted
python recipes/cross_domain_sentiment.py --all                            by mmd and dann too, and by word vectors
python recipes/cross_domain_sentiment.py books dvd kitchen --all          folders of yours, each to each other
python recipes/cross_domain_sentiment.py books dvd --unlabeled unlabeled.jsonl.gz
python recipes/cross_domain_sentiment.py --all --vectors vectors.txt.gz --seeds 1
"""

from pathlib import Path

from nlptransfer.cli import gap_verb, run_verb

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    run_verb(gap_verb([str(DATA / "films"), str(DATA / "gadgets")]), __doc__)
