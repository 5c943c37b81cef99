"""From films, of which there are many labeled rows, to gadgets, of which there are few: does the source help?

python recipes/source_to_target.py                             the gain at 30, 100 and 240 rows of gadgets
python recipes/source_to_target.py --route word2vec --set head_type=linear
python recipes/source_to_target.py mine.csv --source theirs.csv --transfer sequential --sizes 50,200
accelerate launch --num_processes 4 recipes/source_to_target.py --route full --sizes 100
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    recipe(
        DATA / "gadgets",
        source=str(DATA / "films"),
        transfer=["copy", "sequential", "joint"],
        route="probe",
        sizes=[30, 100, 240],
    )
