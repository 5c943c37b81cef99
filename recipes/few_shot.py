"""Few rows of each class: an encoder whose texts of a class were drawn together, beside the same without that.

python recipes/few_shot.py                                     8 headlines of each of six topics
python recipes/few_shot.py --seed 1 --set split_seed=1         another draw of them
python recipes/few_shot.py reviews.csv --max-train-rows 64     your rows
python recipes/few_shot.py --route lora --transfer contrastive    one of the three
"""

from pathlib import Path

from nlptransfer.cli import recipe

DATA = Path(__file__).parents[1] / "data"

if __name__ == "__main__":
    ways = [("probe", "direct"), ("full", "direct"), ("full", "contrastive")]
    recipe(DATA / "headlines", variants=[{"route": route, "transfer": way} for route, way in ways], max_train_rows=48)
